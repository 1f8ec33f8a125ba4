# SPDX-License-Identifier: Apache-2.0
from .mainnets_page import MainnetsPage


def pytest_addoption(parser):
    parser.addoption("--mainnets-page", metavar="PATH", help="write the page of tested MainNets")


def pytest_configure(config):
    path = config.getoption("--mainnets-page")
    # Under pytest-xdist the workers send their reports here.
    if path and not hasattr(config, "workerinput"):
        arguments = [str(argument) for argument in config.invocation_params.args]
        config.pluginmanager.register(MainnetsPage(path, arguments), "mainnets-page")

# SPDX-License-Identifier: Apache-2.0
"""Private names of transformers are in one file."""

import ast
from pathlib import Path

import hf_sidenet
from hf_sidenet.models import transformers_private


PACKAGE = Path(hf_sidenet.__file__).parent
OURS = Path(transformers_private.__file__)
# Of torch, where there is no public name, and of named tuples, where it is public.
OF_OTHERS = {
    "_BatchNorm", "_DropoutNd", "_NormBase", "_assert_async", "_assert_scalar", "_assert_tensor_metadata",
    "_fields", "_forward_hooks", "_forward_pre_hooks", "_get_name", "_modules",
    "_non_persistent_buffers_set", "_version",
}  # fmt: skip


def private_names(path):
    """Private names that a file reads from others, and all names that it defines."""
    reads, defines = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Load()):
                reads.add(name)
            case ast.Attribute(attr=name) | ast.Name(id=name, ctx=ast.Store()):
                defines.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                defines.add(name)
            case ast.ImportFrom(level=0, names=names):
                reads |= {each.name for each in names}
            case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]):
                reads.add(name)
    return {name for name in reads if name.startswith("_") and not name.startswith("__")}, defines


def test_no_other_file_reads_them():
    files = {path: private_names(path) for path in PACKAGE.rglob("*.py")}
    defined = set().union(*(defines for _, defines in files.values()))
    found = {path: reads - defined - OF_OTHERS for path, (reads, _) in files.items()}
    assert found.pop(OURS) == {
        "_BaseAutoModelClass",
        "_attn_implementation",
        "_from_config",
        "_initialize_weights",
        "_model_mapping",
    }
    assert {path.name: names for path, names in found.items() if names} == {}
    assert set().union(*(reads for reads, _ in files.values())) >= OF_OTHERS

# SPDX-License-Identifier: Apache-2.0
"""What every MainNet must do with SideNets. A test class per architecture adds a tiny config."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from hf_sidenet.export import export_stage
from hf_sidenet.export.programs import example_rows
from hf_sidenet.inference import Stages
from hf_sidenet.inference.stages import Skipped
from hf_sidenet.models import SideNetConfig
from hf_sidenet.models.configuration_sidenet import SIDENET_FIELDS

from .naive import blocks_of, choose, every_exit, unsaved_flops, without_hooks
from .prepare import aligned, build_mainnet, build_model, place


class SideNetTester:
    """Subclasses set `model_class`, `mainnet_class`, `config()` and, where not the default, the rest."""

    model_class = None
    mainnet_class = None
    exit_layers = ([1, 3], [1], [3], [1, 2], [2, 3], [1, 2, 3])
    # A second SideNet, or a batch size that dynamo keeps symbolic, takes several times as long to compile.
    compiled_exit_layers, compiled_dynamic = (1,), False
    attach = {}
    # Why there is no re-entrant gradient checkpointing; why stages cannot be exported.
    not_reentrant = ""
    not_exported = ""
    tolerance = 1e-5
    # Share of the FLOPs that a MainNet spends once for all rows, however many there are.

    def config(self):
        raise NotImplementedError

    def inputs(self, batch_size, seed=0):
        raise NotImplementedError

    # --- helpers

    @property
    def attentions(self):
        return ("sdpa", "eager") if self.mainnet_class._supports_sdpa else ("eager",)

    def mainnet(self, attention="eager"):
        return copy.deepcopy(build_mainnet(type(self), attention))

    def model(self, exit_layers=(1, 3), attention="eager", **kwargs):
        model = copy.deepcopy(build_model(type(self), tuple(exit_layers), attention, json.dumps(kwargs)))
        # So that a test goes on with the same random numbers, whether the model was made now or before.
        torch.manual_seed(2)
        return model

    def middle(self, model, inputs, quantile=0.5):
        """θ of each SideNet at which that share of all rows stays."""
        with torch.no_grad():
            full = model(**inputs, thresholds=1.0).exit_logits[:, :-1].float()
        return full.softmax(-1).amax(-1).quantile(quantile, dim=0).tolist()

    def assert_same(self, left, right, tolerance=None):
        tolerance = self.tolerance if tolerance is None else tolerance
        scale = right[~right.isnan()].abs().max() if (~right.isnan()).any() else 1
        torch.testing.assert_close(left, right, rtol=0, atol=float(tolerance * scale), equal_nan=True)

    # --- answers

    def test_exits_off_is_the_plain_mainnet_bit_for_bit(self):
        for attention in self.attentions:
            plain = self.mainnet(attention)
            inputs = self.inputs(5)
            # Both without gradients, as in use: torch has other attention kernels where they are recorded.
            with torch.no_grad():
                expected = without_hooks(plain)(**inputs).logits
            weights = copy.deepcopy(plain.state_dict())
            model = self.model_class.from_mainnet(plain, exit_layers=[1, 2], **self.attach)
            with torch.no_grad():
                output = model(**inputs, thresholds=1.0)
            assert torch.equal(output.logits, expected)
            assert torch.equal(output.exit_logits[:, -1], expected)
            assert output.exit_index.tolist() == [2] * 5
            assert not output.exit_logits.isnan().any()
            assert model.mainnet.config._attn_implementation == plain.config._attn_implementation
            for name, value in model.mainnet.state_dict().items():
                assert torch.equal(value, weights[name]), name

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_agrees_with_running_every_exit_and_choosing_per_row(self, data):
        exit_layers = data.draw(st.sampled_from(self.exit_layers), label="exit_layers")
        attention = data.draw(st.sampled_from(self.attentions), label="attention")
        batch_size = data.draw(st.integers(1, 9), label="batch_size")
        inputs = self.inputs(batch_size, seed=data.draw(st.integers(0, 99), label="seed"))
        model = self.model(exit_layers, attention)
        weight = st.sampled_from([0.0, 0.5, -1.0])
        chain = [data.draw(st.lists(weight, min_size=i + 1, max_size=i + 1)) for i in range(len(exit_layers))]
        model.config.chain = data.draw(st.sampled_from([None, chain]), label="chain")
        full = every_exit(model, inputs)
        confidences = full[:, :-1].softmax(-1).amax(-1)
        quantiles = st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])
        thresholds = [
            data.draw(st.one_of(st.sampled_from([0.0, 1.0]), quantiles.map(confidences[:, i].quantile)))
            for i in range(len(exit_layers))
        ]
        thresholds = [float(t) for t in thresholds]
        exit_index, logits, ties = choose(full, thresholds)
        with torch.no_grad():
            output = model(**inputs, thresholds=thresholds)
        sure = ~ties
        assert output.exit_index[sure].tolist() == exit_index[sure].tolist()
        self.assert_same(output.logits[sure], logits[sure])
        expected = full.clone()
        for row, index in enumerate(output.exit_index.tolist()):
            expected[row, index + 1 :] = torch.nan
        self.assert_same(output.exit_logits[sure], expected[sure])

    def test_theta_zero_runs_only_the_first_blocks(self):
        model = self.model([2, 3])
        calls = []
        for i, block in enumerate(blocks_of(model)):
            block.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
        output = model(**self.inputs(4), thresholds=0.0)
        assert calls == [0, 1]
        assert output.exit_index.tolist() == [0] * 4
        assert output.exit_logits[:, 1:].isnan().all()
        assert not output.exit_logits[:, 0].isnan().any()

    def test_a_row_does_not_depend_on_its_batch(self):
        model = self.model()
        inputs = self.inputs(6)
        # Between the fourth and the fifth of six confidences: two rows leave at each SideNet, two stay at least.
        thresholds = self.middle(model, inputs, 0.75)
        with torch.no_grad():
            together = model(**inputs, thresholds=thresholds)
            assert (together.exit_index == 0).sum() == 2
            assert (together.exit_index == 2).sum() >= 2
            for row in range(6):
                alone = model(**{k: v[row : row + 1] for k, v in inputs.items()}, thresholds=thresholds)
                reached = together.exit_logits[row, : together.exit_index[row] + 1]
                if (reached.softmax(-1).amax(-1)[:2] - torch.tensor(thresholds)[: len(reached)]).abs().min() < 1e-5:
                    continue
                assert alone.exit_index.item() == together.exit_index[row].item()
                self.assert_same(alone.logits[0], together.logits[row])

    def test_an_exit_before_the_first_block(self):
        """Rows that exit there never reach the MainNet; the others are answered as if they had come alone."""
        model, inputs = self.model([0, 2]), self.inputs(6)
        if "pixel_values" in inputs:
            # Eight convolutions, whose kernels depend on the batch size, add up more than the usual rounding.
            model, inputs = model.double(), {"pixel_values": inputs["pixel_values"].double()}
        full = every_exit(model, inputs)
        calls = []
        model.mainnet.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append(len(next(iter(kwargs.values())))), with_kwargs=True
        )
        with torch.no_grad():
            none = model(**inputs, thresholds=1.0)
            assert torch.equal(none.logits, without_hooks(model.mainnet)(**inputs).logits)
            self.assert_same(none.exit_logits, full)
            calls.clear()
            everyone = model(**inputs, thresholds=[0.0, 1.0])
            assert calls == []
            assert everyone.exit_index.tolist() == [0] * 6
            thresholds = self.middle(model, inputs)
            exit_index, logits, ties = choose(full, thresholds)
            assert not ties.any()
            calls.clear()
            output = model(**inputs, thresholds=thresholds)
        assert output.exit_index.tolist() == exit_index.tolist()
        assert calls == [int((exit_index > 0).sum())]
        self.assert_same(output.logits, logits)

    def test_a_theta_for_each_row(self):
        model = self.model()
        inputs = self.inputs(4)
        thresholds = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
        output = model(**inputs, thresholds=thresholds)
        assert output.exit_index.tolist() == [0, 1, 2, 1]
        full = every_exit(model, inputs)
        self.assert_same(output.logits, full[torch.arange(4), output.exit_index])

    def test_no_rows(self):
        model = self.model()
        inputs = {k: v[:0] for k, v in self.inputs(2).items()}
        output = model(**inputs, thresholds=0.5, labels=torch.zeros(0, dtype=torch.long))
        assert output.logits.shape == (0, model.config.num_labels)
        assert output.exit_logits.shape == (0, 3, model.config.num_labels)
        assert output.exit_index.shape == (0,)
        assert output.loss.item() == 0

    # --- saving

    def test_save_and_load_through_the_auto_classes(self, tmp_path):
        model = self.model(thresholds=[0.6, 0.7], temperatures=[1.0, 2.0, 3.0])
        inputs = self.inputs(3)
        with torch.no_grad():
            expected = model(**inputs)
        model.save_pretrained(tmp_path)
        for auto_class in (AutoModel, model.mainnet_auto_class, self.model_class):
            loaded = aligned(auto_class.from_pretrained(tmp_path, attn_implementation="eager"))
            assert type(loaded) is self.model_class
            assert not loaded.training
            with torch.no_grad():
                output = loaded(**inputs)
            assert torch.equal(output.logits, expected.logits)
            assert torch.equal(output.exit_index, expected.exit_index)
            for name in SIDENET_FIELDS:
                if name != "mainnet_config":
                    assert getattr(loaded.config, name) == getattr(model.config, name)
            assert not any(p.requires_grad for p in loaded.mainnet.parameters())
            assert all(p.requires_grad for p in loaded.sidenets.parameters())
        assert SideNetConfig.from_pretrained(tmp_path).temperatures == [1.0, 2.0, 3.0]

    def test_an_earlier_checkpoint_without_a_layout_is_observed(self, tmp_path):
        model = self.model()
        model.save_pretrained(tmp_path)
        config = tmp_path / "config.json"
        fields = json.loads(config.read_text())
        assert fields.pop("layout") == model.config.layout
        config.write_text(json.dumps(fields))
        loaded = self.model_class.from_pretrained(tmp_path, attn_implementation="eager")
        assert loaded.config.layout == model.config.layout

    def test_the_plain_classifier_comes_back(self, tmp_path):
        model = self.model()
        model.mainnet.save_pretrained(tmp_path)
        plain = aligned(self.mainnet_class.from_pretrained(tmp_path, attn_implementation="eager"))
        inputs = self.inputs(3)
        with torch.no_grad():
            assert torch.equal(plain(**inputs).logits, model(**inputs, thresholds=1.0).logits)

    def test_deepcopy_and_pickle(self):
        model = self.model()
        inputs = self.inputs(5)
        for thresholds in (self.middle(model, inputs), 0.0):
            with torch.no_grad():
                expected = model(**inputs, thresholds=thresholds)
                for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
                    output = twin(**inputs, thresholds=thresholds)
                    assert torch.equal(output.logits, expected.logits)
                    assert torch.equal(output.exit_index, expected.exit_index)

    def test_threads_with_different_thetas(self):
        model = self.model()
        inputs = self.inputs(6)
        choices = [0.0, 1.0, self.middle(model, inputs, 0.3), self.middle(model, inputs, 0.7)]
        with torch.no_grad():
            expected = [model(**inputs, thresholds=t) for t in choices]

        def work(i):
            with torch.no_grad():
                return i % 4, model(**inputs, thresholds=choices[i % 4])

        with ThreadPoolExecutor(4) as pool:
            for i, output in pool.map(work, range(24)):
                assert torch.equal(output.exit_index, expected[i].exit_index)
                assert torch.equal(output.logits, expected[i].logits)

    # --- precision, compile, offload

    @pytest.mark.parametrize("quantile", [0.5, None], ids=["some leave", "all leave"])
    def test_bfloat16_and_autocast(self, quantile):
        model = self.model()
        inputs = self.inputs(6)
        thresholds = 0.0 if quantile is None else self.middle(model, inputs, quantile)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
                output = model(**inputs, thresholds=thresholds)
                full = model(**inputs, thresholds=1.0)
            exit_index, logits, _ = choose(full.exit_logits, [thresholds] * 2 if quantile is None else thresholds)
            same = output.exit_index == exit_index
            assert same.float().mean() > 0.8
            self.assert_same(output.logits[same], logits[same], 5e-2)
        half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
        model = model.to(torch.bfloat16)
        with torch.no_grad():
            output = model(**half, thresholds=thresholds)
            full = model(**half, thresholds=1.0)
            plain = without_hooks(model.mainnet)(**half).logits
        assert output.logits.dtype == torch.bfloat16
        assert torch.equal(full.logits, plain)
        exit_index, logits, _ = choose(full.exit_logits, [thresholds] * 2 if quantile is None else thresholds)
        same = output.exit_index == exit_index
        assert same.float().mean() > 0.8
        self.assert_same(output.logits[same], logits[same], 2e-2)

    @pytest.mark.slow
    def test_compiled(self):
        torch._dynamo.reset()
        model = self.model(self.compiled_exit_layers)
        inputs = self.inputs(5)
        compiled = torch.compile(model, backend="aot_eager", dynamic=self.compiled_dynamic)
        with torch.no_grad():
            for thresholds in (1.0, self.middle(model, inputs), 0.0):
                expected = model(**inputs, thresholds=thresholds)
                output = compiled(**inputs, thresholds=thresholds)
                assert torch.equal(output.exit_index, expected.exit_index)
                self.assert_same(output.exit_logits, expected.exit_logits)

    def test_device_map_with_a_part_on_disk(self, tmp_path):
        model = self.model()
        inputs = self.inputs(5)
        model.save_pretrained(tmp_path / "model")
        on_disk = {f"mainnet.{model.layout.blocks[1]}", "sidenets.0"}
        device_map = dict(place(model, on_disk))
        offloaded = self.model_class.from_pretrained(
            tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "o", attn_implementation="eager"
        )
        with torch.no_grad():
            for thresholds in (1.0, self.middle(model, inputs), 0.0):
                expected = model(**inputs, thresholds=thresholds)
                output = offloaded(**inputs, thresholds=thresholds)
                assert torch.equal(output.exit_index, expected.exit_index)
                # Not bit for bit: weights on the disk are not aligned, see `aligned`.
                scale = expected.logits.abs().max().item()
                torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-5 * scale)

    # --- stages

    def test_stages_one_after_the_other_with_rows_leaving(self):
        for attention in self.attentions:
            model = self.model(attention=attention)
            stages = Stages(model)
            inputs = self.inputs(6)
            full = every_exit(model, inputs)
            hidden, rows = None, torch.arange(6)
            with torch.no_grad():
                for k, keep in enumerate(([0, 2, 3, 5], [0, 3], [0, 1])):
                    hidden, logits = stages(k, hidden, inputs)
                    self.assert_same(logits, full[rows, k])
                    rows = rows[keep]
                    if hidden is not None:
                        inputs, hidden = self.left_inside(inputs, hidden, keep)
                    elif k == 0:
                        inputs = {name: value[keep] for name, value in inputs.items()}
            assert hidden is None

    def test_a_stage_runs_its_own_blocks_only_and_shares_the_weights(self):
        model = self.model([1, 3])
        stages, calls = Stages(model), []
        weights = {p.data_ptr() for p in model.parameters()}
        for k, stage in enumerate(stages.modules):
            assert {p.data_ptr() for p in stage.parameters()} <= weights
            for i, block in enumerate(map(stage.mainnet.get_submodule, model.layout.blocks)):
                if not isinstance(block, Skipped):
                    block.register_forward_pre_hook(lambda *_, k=k, i=i: calls.append((k, i)))
        inputs, hidden = self.inputs(3), None
        last = len(blocks_of(model))
        with torch.no_grad():
            for k in range(3):
                hidden, _ = stages(k, hidden, inputs)
        assert calls == [(0, 0), (1, 1), (1, 2), *((2, i) for i in range(3, last))]

    @pytest.mark.medium
    def test_stages_export_with_dynamic_shapes(self):
        if self.not_exported:
            pytest.skip(self.not_exported)
        model = self.model([2], self.attentions[0])
        stages = Stages(model)
        programs = [export_stage(stages, index) for index in range(2)]
        for num_rows, num_tokens in ((6, 12), (1, 3)):
            # Images of the recorded size, which is what a program takes.
            inputs = example_rows(stages, num_rows, num_tokens, seed=num_rows)
            with torch.no_grad():
                hidden, first = self.run_program(programs[0], inputs)
                (last,) = self.run_program(programs[1], {"hidden": hidden, **inputs})
            self.assert_same(torch.stack([first, last], 1), every_exit(model, inputs))

    def run_program(self, program, inputs):
        return program.module()(*(inputs[name] for name in program.graph_signature.user_inputs))

    # --- training

    def test_what_learns(self):
        for mode in ("all", "body", "none"):
            model = self.model(freeze_mainnet=mode).train()
            before = copy.deepcopy(model.state_dict())
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
            inputs, labels = self.inputs(4), torch.tensor([0, 1, 2, 0])
            output = model(**inputs, labels=labels, thresholds=0.0)
            output.loss.backward()
            optimizer.step()
            changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
            mainnet_changed = {name for name in changed if name.startswith("mainnet.")}
            assert any(name.startswith("sidenets.0") for name in changed)
            assert any(name.startswith("sidenets.1") for name in changed)
            assert output.exit_index.tolist() == [1 if mode == "all" else 2] * 4
            assert output.exit_logits[:, -1].isnan().all() == (mode == "all")
            if mode == "all":
                assert not mainnet_changed
            elif mode == "body":
                assert mainnet_changed
                assert {name.rpartition(".")[0] for name in mainnet_changed} == {self.last_layer(model)}
            else:
                assert len(mainnet_changed) > 5

    def last_layer(self, model):
        (name,) = {
            name.rpartition(".")[0]
            for name, p in model.named_parameters()
            if name.startswith("mainnet.") and p.requires_grad
        }
        return name

    def test_gradient_checkpointing_gives_the_same_gradients(self):
        if not self.mainnet_class.supports_gradient_checkpointing:
            pytest.skip(f"{self.mainnet_class.__name__} has no gradient checkpointing")
        inputs, labels = self.inputs(4), torch.tensor([0, 1, 2, 0])
        for mode in ("none", "all"):
            for reentrant in (False,) if self.not_reentrant else (False, True):
                gradients = []
                for checkpointing in (False, True):
                    model = self.model(freeze_mainnet=mode)
                    if checkpointing:
                        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
                    model.train()
                    for module in model.modules():
                        if isinstance(module, torch.nn.Dropout):
                            module.p = 0.0
                    model(**inputs, labels=labels).loss.backward()
                    gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
                assert gradients[0].keys() == gradients[1].keys()
                scale = float(max(gradient.abs().max() for gradient in gradients[0].values()))
                for name, gradient in gradients[0].items():
                    torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6 * scale)

    def test_loss_is_the_sum_of_the_exits(self):
        inputs, labels = self.inputs(4), torch.tensor([0, 1, 2, 0])
        model = self.model(alpha=[0.5, 2.0]).eval()
        with torch.no_grad():
            output = model(**inputs, labels=labels, thresholds=1.0)
            per_exit = [torch.nn.functional.cross_entropy(output.exit_logits[:, i], labels) for i in range(3)]
            torch.testing.assert_close(output.loss, per_exit[2] + 0.5 * per_exit[0] + 2 * per_exit[1])
            routed = model(**inputs, labels=labels, thresholds=0.0)
            torch.testing.assert_close(routed.loss, per_exit[0])
            # The MainNet learns from its own logits, a SideNet from what it answers.
            model.config.chain = [[0.5], [0.5, 0.5]]
            chained = model(**inputs, labels=labels, thresholds=1.0)
            second = torch.nn.functional.cross_entropy(chained.exit_logits[:, 1], labels)
            assert (second - per_exit[1]).abs() > 1e-3
            torch.testing.assert_close(chained.loss, per_exit[2] + 0.5 * per_exit[0] + 2 * second)
        # Nothing of it reaches the SideNet whose logits it adds.
        model.config.alpha = [0.0, 1.0]
        model.train()
        model(**inputs, labels=labels).loss.backward()
        first, second = (
            sum(float(p.grad.abs().sum()) for p in sidenet.parameters() if p.grad is not None)
            for sidenet in model.sidenets
        )
        assert first == 0 < second

    # --- looking at it

    def test_exit_points(self):
        model = self.model()
        points = model.exit_points()
        num_blocks = len(blocks_of(model))
        assert [point.exit_layer for point in points] == list(range(num_blocks))
        assert [list(point.shape) for point in points[1:]] == model.config.block_shapes
        assert points[0].module in self.inputs(1)
        assert (points[0].params, points[0].flops) == (0, 0)
        for name in ("params", "flops"):
            shares = [getattr(point, name) for point in points]
            assert shares == sorted(shares)
            assert 0 < shares[1] < shares[-1] < 1

    def test_rows_that_left_cost_nothing_later(self):
        for exit_layer in (1, 3):
            assert abs(unsaved_flops(self.model([exit_layer]), self.inputs(8), exit_layer)) < 0.001

    def test_add_exits_keeps_what_is_there(self):
        model = self.model([2], thresholds=0.9)
        inputs = self.inputs(4)
        with torch.no_grad():
            before = model(**inputs, thresholds=1.0)
            model.add_exits([1, 3])
            after = model(**inputs, thresholds=1.0)
        assert model.config.exit_layers == [1, 2, 3]
        assert model.config.thresholds == [1.0, 0.9, 1.0]
        assert torch.equal(after.exit_logits[:, 1], before.exit_logits[:, 0])
        assert torch.equal(after.logits, before.logits)


class TextTester(SideNetTester):
    """Padded token ids of different lengths."""

    def left_inside(self, inputs, hidden, keep):
        """The rows that stay, without the columns that are padding in all of them."""
        inputs = {name: value[keep] for name, value in inputs.items()}
        length = int(inputs["attention_mask"].sum(1).max())
        return {name: value[:, :length] for name, value in inputs.items()}, hidden[keep, :length]

    def inputs(self, batch_size, seed=0):
        generator = torch.Generator().manual_seed(seed)
        input_ids = torch.randint(3, 99, (batch_size, 12), generator=generator)
        lengths = torch.randint(3, 13, (batch_size, 1), generator=generator)
        mask = (torch.arange(12) < lengths).long()
        return {"input_ids": input_ids * mask + self.config().pad_token_id * (1 - mask), "attention_mask": mask}


class ImageTester(SideNetTester):
    """Noise images."""

    image_size = 32
    # Else a MainNet that names no size is looked at with images of 224 px.
    attach = {"input_size": [3, 32, 32]}

    def left_inside(self, inputs, hidden, keep):
        """The rows that stay; of the images only the size counts."""
        return {"pixel_values": inputs["pixel_values"][:1]}, hidden[keep]

    def inputs(self, batch_size, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return {"pixel_values": torch.randn(batch_size, 3, self.image_size, self.image_size, generator=generator)}

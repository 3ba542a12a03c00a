"""Points and series, listed by hand."""

from dataclasses import replace

import pytest

from semid.errors import InputError
from semid.generative.config import InputConfig, ModelConfig
from semid.generative.presets import PRESETS
from semid.pipeline.sweep.axes import AXES, SweepPoint, default_axes, make_plan

SMALL = PRESETS["small"].model


def test_one_axis_at_a_time_and_the_base_once():
    plan = make_plan(SMALL, {"depth": (4, 2), "width": (64, 128, 256)})
    assert set(plan.points) == {"width=64", "base", "width=256", "depth=4"}
    assert plan.points["base"] == SweepPoint(model=SMALL)
    assert plan.points["depth=4"].model == replace(SMALL, layers=4)
    width, depth = plan.series
    assert (width.axis, dict(width.names)) == ("width", {64: "width=64", 128: "base", 256: "width=256"})
    assert (depth.axis, list(depth.names.items())) == ("depth", [(2, "base"), (4, "depth=4")])
    assert width.fixed == depth.fixed == {}


def test_a_grid_has_a_series_for_every_value_of_the_others():
    plan = make_plan(SMALL, {"width": (64, 128), "depth": (2, 4)}, grid=True)
    assert set(plan.points) == {"width=64,depth=2", "width=64,depth=4", "base", "width=128,depth=4"}
    assert [(s.axis, s.fixed) for s in plan.series] == [
        ("width", {"depth": 2}),
        ("depth", {"width": 64}),
        ("width", {"depth": 4}),
        ("depth", {"width": 128}),
    ]
    assert plan.series[0].names == {64: "width=64,depth=2", 128: "base"}
    point = plan.points["width=64,depth=4"].model
    assert (point.width, point.layers) == (64, 4)


@pytest.mark.parametrize(("width", "heads"), [(8, 4), (64, 4), (128, 4), (256, 4), (384, 6), (512, 8)])
def test_heads_follow_the_width_as_in_the_presets(width, heads):
    model = AXES["width"].apply(SweepPoint(model=SMALL), width).model
    assert (model.width, model.heads, model.kv_heads) == (width, heads, heads // 2)
    if width % 64 == 0:
        sized = ModelConfig.sized(width // 64)
        assert (model.heads, model.kv_heads) == (sized.heads, sized.kv_heads)


def test_the_width_of_the_base_keeps_its_heads():
    other = replace(SMALL, heads=2, kv_heads=1)
    assert AXES["width"].apply(SweepPoint(model=other), 128).model == other


def test_negatives_stand_in_a_bank_that_is_used():
    model = AXES["negatives"].apply(SweepPoint(model=SMALL), 256).model
    assert model == replace(SMALL, negatives=(("uniform", 256),), full_softmax_items=0)


def test_negatives_of_each_position_where_the_loss_has_such():
    pairs = replace(SMALL, contrastive="pairs")
    model = AXES["negatives"].apply(SweepPoint(model=pairs), 16).model
    assert model == replace(pairs, pair_negatives=16)


def test_ids_as_wide_as_the_model_are_those_of_the_base():
    plan = make_plan(SMALL, {"id_width": (32, 128)})
    assert plan.points["id_width=32"].model == replace(SMALL, inputs=InputConfig(id_width=32))
    assert plan.series[0].names[128] == "base"
    grid = make_plan(SMALL, {"id_width": (64,), "width": (64,)}, grid=True)
    [point] = grid.points.values()
    assert (point.model.width, point.model.inputs.id_width) == (64, 0)
    joined = replace(SMALL, inputs=InputConfig(join="mlp", part_width=32))
    assert set(make_plan(joined, {"id_width": (32, 128)}).points) == {"base", "id_width=128"}


def test_shares_of_the_users():
    plan = make_plan(SMALL, {"data": (1, 0.25)})
    assert plan.points == {"base": SweepPoint(model=SMALL), "data=0.25": SweepPoint(model=SMALL, users=0.25)}
    assert list(plan.series[0].names) == [0.25, 1.0]


@pytest.mark.parametrize("preset", PRESETS)
def test_default_axes_fit_every_preset(preset):
    base = PRESETS[preset].model
    axes = default_axes(base)
    assert {"width", "depth"} <= set(axes)
    assert ("negatives" in axes, "id_width" in axes) == (base.contrastive_weight > 0, "id" in base.features)
    plan = make_plan(base, axes)
    assert all(len(series.names) == 3 for series in plan.series)
    for series in plan.series:
        if series.axis in ("width", "depth"):
            assert "base" in series.names.values()


def test_default_axes_begin_from_what_the_base_has():
    assert default_axes(SMALL) == {
        "negatives": (256, 1024, 4096),
        "width": (64, 128, 256),
        "depth": (1, 2, 4),
        "id_width": (32, 64, 128),
    }
    bank = replace(SMALL, full_softmax_items=0, negatives=(("uniform", 32_768),))
    assert default_axes(bank)["negatives"] == (2048, 8192, 32_768)
    assert make_plan(bank, default_axes(bank)).series[0].names[32_768] == "base"
    pairs = replace(SMALL, contrastive="pairs", pair_negatives=2)
    assert default_axes(pairs)["negatives"] == (2, 8, 32)


def test_default_axes_leave_out_what_the_model_has_not():
    base = replace(SMALL, contrastive_weight=0.0, features=("codes",))
    assert set(default_axes(base)) == {"width", "depth"}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"colour": (1, 2)}, "Unknown axis 'colour': use one or more of negatives, width, depth, id_width, data"),
        ({"width": ()}, "Axis width has no values: give some, such as width=64,128,256"),
        ({"data": ()}, "Axis data has no values: give some, such as data=0.25,0.5,1"),
        ({"width": (64, 128, 64)}, "Axis width has the value 64 twice: give each once"),
        ({"depth": (1.5,)}, r"Axis depth has the value 1\.5: it takes whole numbers of at least 1"),
        ({"negatives": (0,)}, "Axis negatives has the value 0: it takes whole numbers"),
        ({"width": (float("nan"),)}, "Axis width has the value nan: it takes whole numbers"),
        ({"width": (float("inf"),)}, "Axis width has the value inf: it takes whole numbers"),
        ({"data": (0,)}, "Axis data has the value 0: it takes shares above 0 and at most 1"),
        ({"data": (1.5,)}, r"Axis data has the value 1\.5: it takes shares"),
        ({"width": (30,)}, "Axis width cannot be 30: heads are 64 wide but at least 4, .* take a multiple of 128"),
        ({"width": (320,)}, "Axis width cannot be 320: heads are 64 wide"),
    ],
)
def test_axes_that_cannot_be(axes, message):
    with pytest.raises(InputError, match=message):
        make_plan(SMALL, axes)


def test_axes_of_what_the_model_has_not():
    with pytest.raises(InputError, match="Axis negatives cannot be 64: negatives are of the item vector loss"):
        make_plan(replace(SMALL, contrastive_weight=0.0), {"negatives": (64,)})
    with pytest.raises(InputError, match="Axis id_width cannot be 64: this model has no ids"):
        make_plan(replace(SMALL, features=("codes",)), {"id_width": (64,)})

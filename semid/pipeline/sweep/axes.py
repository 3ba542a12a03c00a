"""What a scaling study varies: its axes, the points on them, and which points make a series."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from semid.errors import InputError
from semid.generative.config import ModelConfig

BASE = "base"
_HEAD_WIDTH, _LEAST_HEADS = 64, 4
_LEAST_BANK = 4096


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """What is trained: a model, and the share of users whose training events it sees."""

    model: ModelConfig
    users: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing that is varied.

    Attributes:
        label: what a value is, with its unit, for tables and plots.
        apply: the point with one value in place of its own.
        share: whether values are shares, above 0 and at most 1, in place of whole numbers from 1 on.
    """

    label: str
    apply: Callable[[SweepPoint, float], SweepPoint]
    share: bool = False


@dataclass(frozen=True, kw_only=True)
class Series:
    """The points along one axis, everything else the same.

    Attributes:
        axis: which.
        fixed: the values of the other axes in a full grid; without one they are those of the base.
        names: of the point at each value of the axis, values rising.
    """

    axis: str
    fixed: Mapping[str, float]
    names: Mapping[float, str]


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """All points of a study by name, each once, and the series that they make."""

    points: Mapping[str, SweepPoint]
    series: tuple[Series, ...]


def make_plan(base: ModelConfig, axes: Mapping[str, Sequence[float]], *, grid: bool = False) -> SweepPlan:
    """Vary one axis of the base at a time, or all of them together.

    A point that equals the base is the base: it is trained once and belongs to every series that has its value.

    Raises:
        InputError: an unknown axis, no values, one that is given twice or that the axis or the model cannot take.
    """
    values = {axis: _checked(axis, axes[axis]) for axis in axes}
    ordered = {axis: values[axis] for axis in AXES if axis in values}  # the width first, then what is measured by it
    points: dict[str, SweepPoint] = {}
    series: dict[tuple[str, tuple[tuple[str, float], ...]], dict[float, str]] = {}
    for setting in _grid(ordered) if grid else _one_at_a_time(ordered):
        name, point = _point(SweepPoint(model=base), setting)
        points[name] = point
        for axis, value in setting.items():
            fixed = tuple((other, setting[other]) for other in setting if other != axis)
            series.setdefault((axis, fixed), {})[value] = name
    return SweepPlan(
        points=points,
        series=tuple(
            Series(axis=axis, fixed=dict(fixed), names=dict(sorted(names.items())))
            for (axis, fixed), names in series.items()
        ),
    )


def default_axes(base: ModelConfig) -> dict[str, tuple[float, ...]]:
    """Three values of every axis of the model: for want of others, around what the base has."""
    width, half_depth = base.width, max(1, base.layers // 2)
    axes: dict[str, tuple[float, ...]] = {
        "width": (width // 2, width, 2 * width),
        "depth": (half_depth, 2 * half_depth, 4 * half_depth),
    }
    if base.contrastive_weight > 0 and base.contrastive == "bank":
        bank = max(dict(base.negatives).get("uniform", 0), _LEAST_BANK)
        axes["negatives"] = (bank // 16, bank // 4, bank)
    elif base.contrastive_weight > 0:
        axes["negatives"] = (base.pair_negatives, 4 * base.pair_negatives, 16 * base.pair_negatives)
    if "id" in base.features:
        axes["id_width"] = (width // 4, width // 2, width)
    return {axis: axes[axis] for axis in AXES if axis in axes}


def _grid(axes: Mapping[str, tuple[float, ...]]) -> Iterator[dict[str, float]]:
    return (dict(zip(axes, chosen, strict=True)) for chosen in product(*axes.values()))


def _one_at_a_time(axes: Mapping[str, tuple[float, ...]]) -> Iterator[dict[str, float]]:
    return ({axis: value} for axis, values in axes.items() for value in values)


def _checked(axis: str, values: Sequence[float]) -> tuple[float, ...]:
    """The values of an axis, whole ones as int."""
    if axis not in AXES:
        raise InputError(f"Unknown axis {axis!r}: use one or more of {', '.join(AXES)}.")
    if not len(values):
        raise InputError(f"Axis {axis} has no values: give some, such as {axis}={_EXAMPLES[AXES[axis].share]}.")
    for value in values:
        if AXES[axis].share and not 0 < value <= 1:
            raise InputError(f"Axis {axis} has the value {value}: it takes shares above 0 and at most 1.")
        if not AXES[axis].share and not (value >= 1 and float(value).is_integer()):
            raise InputError(f"Axis {axis} has the value {value}: it takes whole numbers of at least 1.")
        if list(values).count(value) > 1:
            raise InputError(f"Axis {axis} has the value {value} twice: give each once.")
    return tuple(float(value) if AXES[axis].share else int(value) for value in values)


_EXAMPLES = {False: "64,128,256", True: "0.25,0.5,1"}


def _point(start: SweepPoint, setting: Mapping[str, float]) -> tuple[str, SweepPoint]:
    """The start with these values, and the name of that."""
    point = start
    for axis, value in setting.items():
        try:
            point = AXES[axis].apply(point, value)
        except InputError as error:
            raise InputError(f"Axis {axis} cannot be {value}: {error}") from None
    return BASE if point == start else ",".join(f"{axis}={value}" for axis, value in setting.items()), point


def _negatives(point: SweepPoint, value: float) -> SweepPoint:
    model, count = point.model, int(value)
    if model.contrastive_weight == 0:
        raise InputError("negatives are of the item vector loss, whose weight is 0 in this model.")
    if model.contrastive == "bank":
        return replace(point, model=replace(model, negatives=(("uniform", count),), full_softmax_items=0))
    return replace(point, model=replace(model, pair_negatives=count))


def _width(point: SweepPoint, value: float) -> SweepPoint:
    width = int(value)
    if width == point.model.width:  # whose heads may be others
        return point
    heads = max(_LEAST_HEADS, width // _HEAD_WIDTH)
    if width % (2 * heads) or heads % 2:
        raise InputError(
            f"heads are {_HEAD_WIDTH} wide but at least {_LEAST_HEADS}, an even number of them: take a multiple of "
            f"{2 * _HEAD_WIDTH}, or one of {2 * _LEAST_HEADS} up to {_LEAST_HEADS * _HEAD_WIDTH}."
        )
    return replace(point, model=replace(point.model, width=width, heads=heads, kv_heads=heads // 2))


def _depth(point: SweepPoint, value: float) -> SweepPoint:
    return replace(point, model=replace(point.model, layers=int(value)))


def _id_width(point: SweepPoint, value: float) -> SweepPoint:
    model, inputs = point.model, point.model.inputs
    if "id" not in model.features:
        raise InputError("this model has no ids.")
    id_width = 0 if value == (inputs.part_width or model.width) else int(value)  # as wide as other parts: the default
    return replace(point, model=replace(model, inputs=replace(inputs, id_width=id_width)))


def _users(point: SweepPoint, value: float) -> SweepPoint:
    return replace(point, users=value)


# In the order in which they are applied.
AXES: Mapping[str, Axis] = {
    "negatives": Axis(label="uniform negatives (items)", apply=_negatives),
    "width": Axis(label="width of the trunk (units)", apply=_width),
    "depth": Axis(label="depth of the trunk (blocks)", apply=_depth),
    "id_width": Axis(label="width of the id tables (units)", apply=_id_width),
    "data": Axis(label="share of the training users", apply=_users, share=True),
}

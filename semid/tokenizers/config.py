"""How to make semantic IDs: the settings of a tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from semid.errors import InputError
from semid.tokenizers.checks import check_at_least
from semid.tokenizers.collisions.placement import needs_room
from semid.tokenizers.collisions.resolution import OVERFLOWS, POLICIES, check_capacity
from semid.tokenizers.family import FAMILY, make_quantiser
from semid.tokenizers.fusion.preprocessing import PreprocessorConfig
from semid.tokenizers.quantiser import Quantiser
from semid.tokenizers.shape import usual_shape

_CODES = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """How to make semantic IDs.

    Attributes:
        embeddings: ids of the embeddings to fuse.
        behaviour: those among them that come from histories. They shape the codes; an item that lacks them is placed
            by the others, and what a recommender is told of an item leaves them out, since it knows the histories.
        weights: share of the energy of each; None for equal shares.
        svd: components of the fused vector.
        scale: ``energy`` or ``whiten``, of each embedding; see ``PreprocessorConfig``.
        fuse: ``svd`` or ``gcca``.
        missing: ``regression`` or ``mean`` for embeddings that an item lacks.
        whiten: whitening exponent of the components, from 0 (none) to 1 (full).
        rotate: turn the components at random, for quantisers that cut vectors into parts.
        quantiser: a name of ``family.py``.
        levels: L codes an item.
        codes: K codes a level, one number for all or one a level. None: what suits the number of items, many at the
            first level and few after it; 256 where codes are parallel.
        options: further settings of the quantiser, by name.
        collisions: ``optimal``, ``nearest``, ``random-k``, ``extra`` or ``none``; see ``collisions``.
        collision_level: level, from 1, at which ``nearest`` and ``random-k`` move items; None for the last.
        collision_choices: k of ``random-k``, the nearest free codes that an item draws one of.
        overflow: ``spill``, ``random``, ``extra`` or ``error``.
        sample: most items to fit on; None for as many as fit into 128 MiB, and at least 64 a code.
        seed: of every random choice.
    """

    embeddings: tuple[str, ...]
    behaviour: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    svd: int = 128
    scale: str = "energy"
    fuse: str = "svd"
    missing: str = "regression"
    whiten: float = 0.0
    rotate: bool = False
    quantiser: str = "rq-kmeans"
    levels: int = 3
    codes: int | tuple[int, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    collisions: str = "optimal"
    collision_level: int | None = None
    collision_choices: int = 8
    overflow: str = "spill"
    sample: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.embeddings:
            raise InputError("No embedding was named: give at least one.")
        if len(set(self.embeddings)) < len(self.embeddings):
            raise InputError(f"An embedding is named twice in {', '.join(self.embeddings)}: name each once.")
        unknown = [name for name in self.behaviour if name not in self.embeddings]
        if unknown:
            raise InputError(f"{unknown[0]!r} is named as behaviour but is none of the embeddings: add it to them.")
        if self.weights is not None and len(self.weights) != len(self.embeddings):
            names = ", ".join(self.embeddings)
            raise InputError(f"{len(self.weights)} weights were given for the embeddings {names}: give one each.")
        if self.collisions not in POLICIES:
            raise InputError(f"Unknown collision policy {self.collisions!r}: use one of {', '.join(POLICIES)}.")
        if self.overflow not in OVERFLOWS:
            raise InputError(f"Unknown overflow policy {self.overflow!r}: use one of {', '.join(OVERFLOWS)}.")
        if self.collision_level is not None and not 1 <= self.collision_level <= self.levels:
            raise InputError(f"The collision level is {self.collision_level} but must lie in 1..{self.levels}.")
        check_at_least("number of collision choices", self.collision_choices, 1)
        _ = self.preprocessing, self.num_codes  # their configurations check the rest

    @property
    def content(self) -> tuple[str, ...]:
        """The embeddings that do not come from histories; all where none do otherwise."""
        return tuple(name for name in self.embeddings if name not in self.behaviour) or self.embeddings

    @property
    def preprocessing(self) -> PreprocessorConfig:
        return PreprocessorConfig(
            svd=self.svd,
            weights=self.weights,
            scale=self.scale,
            fuse=self.fuse,
            missing=self.missing,
            whiten=self.whiten,
            rotate=self.rotate,
            sample=self.sample,
            seed=self.seed,
        )

    @property
    def content_preprocessing(self) -> PreprocessorConfig:
        """The same for the embeddings in ``content`` alone."""
        if self.weights is None:
            return self.preprocessing
        weights = dict(zip(self.embeddings, self.weights, strict=True))
        return replace(self.preprocessing, weights=tuple(weights[name] for name in self.content))

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K of each level, before collisions are resolved."""
        return self.new_quantiser().num_codes

    def for_items(self, num_items: int, known: int) -> "TokenizerConfig":
        """The same with the number of codes decided for a catalogue of which ``known`` items have an embedding."""
        if self.codes is not None or FAMILY[self.quantiser].parallel:
            return self
        fitted = known if self.sample is None else min(known, self.sample)
        return replace(self, codes=usual_shape(num_items, fitted, self.levels))

    def check_size(self, num_items: int) -> None:
        """Raise InputError for a catalogue of ``num_items`` that this does not fit, as far as the number tells."""
        num_codes = self.num_codes
        largest = max(num_codes)
        if num_items < 2:
            raise InputError(f"The catalogue has {num_items} items: at least 2 are needed for semantic IDs.")
        if largest > num_items:
            raise InputError(f"{largest} codes a level are more than the {num_items} items: use at most {num_items}.")
        if self.sample is not None and largest > self.sample:
            raise InputError(
                f"{largest} codes a level are more than the sample of {self.sample} items: "
                "use fewer codes or a larger sample."
            )
        if needs_room(self.collisions, self.overflow):
            check_capacity(num_items, num_codes)

    def new_quantiser(self) -> Quantiser:
        """An unfitted quantiser of this kind."""
        own = {"levels": self.levels, "codes": _CODES if self.codes is None else self.codes, "seed": self.seed}
        twice = sorted(own.keys() & self.options.keys())
        if twice:
            raise InputError(f"{twice[0]!r} has an option of its own: do not set it for the quantiser too.")
        return make_quantiser(self.quantiser, **own, **self.options)

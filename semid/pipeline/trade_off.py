"""What quality costs: beams and ANN indexes of several sizes, each with its quality and its time."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from semid.data.events import Queries
from semid.evaluation.latency import latency
from semid.evaluation.metrics import query_metrics
from semid.evaluation.targets import Targets
from semid.pipeline.answering import Answerer
from semid.progress import Progress
from semid.ranking import Ranking
from semid.retrieval.choice import auto_factory, build_index, num_lists
from semid.retrieval.exact_index import EXACT

BEAMS = (10, 20, 50, 100, 200, 500)
_BATCH = 64
_BATCH_QUERIES = 1024
_QUERIES = 2000


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """One setting of a mode.

    Attributes:
        mode: of MODES.
        setting: such as ``"beam 50"`` or a Faiss factory string.
        queries: how many were asked.
        ndcg, hit_rate: at k.
        milliseconds: a query, in batches of 64, the median.
        best: whether no other setting of any mode is better and as fast.
    """

    mode: str
    setting: str
    queries: int
    ndcg: float
    hit_rate: float
    milliseconds: float
    best: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def trade_offs(
    answerer: Answerer,
    queries: Queries,
    *,
    k: int = 10,
    beams: Sequence[int] = BEAMS,
    progress: Progress | None = None,
) -> list[TradeOff]:
    """Each mode of a model at several settings: ``generative`` and ``hybrid`` by beam, ``ann`` by index.

    Args:
        queries: with targets; a fixed sample of them is asked.
        k: list length.
        beams: those as wide as k and no wider than the catalogue count.
        progress: called with what is done, how many settings, and all of them.
    """
    num_items, width = len(answerer.recommender.candidates), answerer.recommender.item_vectors.shape[1]
    wide_enough = [beam for beam in beams if k <= beam <= max(k, num_items)]
    tried: list[tuple[str, str, dict[str, Any]]] = [
        (mode, f"beam {beam}", {"beam": beam}) for mode in ("generative", "hybrid") for beam in wide_enough
    ]
    tried += [("ann", factory, {"factory": factory}) for factory in _factories(num_items, width)]
    tried = [setting for setting in tried if setting[0] in answerer.modes]
    queries = queries.sample(_QUERIES)
    targets, points = Targets.of(queries), []
    for done, (mode, setting, changes) in enumerate(tried, 1):
        plain = {"k": k, "beam": max(k, answerer.config.beam), "fallback": (), "exact": False, "budget": ()}
        other = answerer.with_settings(**{**plain, **changes})
        if mode == "ann":  # built for the occasion: the one beside the model stays
            recommender = other.recommender
            rows, vectors = recommender.candidates, recommender.item_vectors
            other.index = build_index(vectors[rows], rows, other.config.factory, recommender.catalogue.codes.device)
        points.append(_measured(other, mode, setting, queries, targets))
        if progress:
            progress("trade off", done, len(tried))
    return [replace(point, best=not any(_dominates(other, point) for other in points)) for point in points]


def trade_off_rows(points: Sequence[TradeOff], k: int) -> list[tuple[str, ...]]:
    """A table, the header first; what no other setting dominates has a star."""
    rows: list[tuple[str, ...]] = [("mode", "setting", f"NDCG@{k}", f"HitRate@{k}", "ms a query", "best")]
    for p in points:
        figures = f"{p.ndcg:.4f}", f"{p.hit_rate:.4f}", f"{p.milliseconds:.2f}"
        rows.append((p.mode, p.setting, *figures, "*" if p.best else ""))
    return rows


def _factories(num_items: int, width: int) -> list[str]:
    lists, chosen = f"IVF{num_lists(num_items)}", auto_factory(num_items, width)
    return list(dict.fromkeys([EXACT, chosen, f"{lists},Flat", f"{lists},SQ8", "HNSW32"]))


def _measured(answerer: Answerer, mode: str, setting: str, queries: Queries, targets: Targets) -> TradeOff:
    taken = latency(lambda rows: answerer.answer(queries.select(rows), mode), len(queries), _BATCH)
    parts = [answerer.answer(part, mode).ranking for part in queries.batches(_BATCH_QUERIES)]
    metrics = query_metrics(Ranking.concatenate(parts), targets, answerer.config.k)
    return TradeOff(
        mode=mode,
        setting=setting,
        queries=len(queries),
        ndcg=float(metrics.ndcg.mean()),
        hit_rate=float(metrics.hit_rate.mean()),
        milliseconds=taken.median / min(_BATCH, len(queries)),
    )


def _dominates(one: TradeOff, other: TradeOff) -> bool:
    at_least = one.ndcg >= other.ndcg and one.milliseconds <= other.milliseconds
    return at_least and (one.ndcg > other.ndcg or one.milliseconds < other.milliseconds)

"""What does it cost to join both ways to retrieve, and what does it change to let the hybrid answer for the beams?

Cost: the parts of the hybrid's answer in turns, on one batch of test queries; *joining* is all but the pass over
histories, beams and vector search: the search by content, the followers, and judging the union by all evidence. What
is *added to generating*: the time of mode hybrid less that of the vector search, over mode generative's, less 1.
Fallbacks: every reason alone, its share of the queries and what it changes in their HitRate@10.

    python benchmarks/joining.py DATA MODEL --clock cpu
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from semid.data.dataset import Dataset
from semid.data.events import Queries
from semid.evaluation.metrics import query_metrics
from semid.evaluation.targets import Targets
from semid.generative.recommender import GenerativeRecommender
from semid.pipeline import evidence
from semid.pipeline.answer import FALLBACKS, Answer, AnswerConfig
from semid.pipeline.answering import Answerer
from semid.pipeline.evidence import Past
from semid.pipeline.judging import best_of_union

K = 10


def parts_of(answerer: Answerer, queries: Queries) -> dict[str, Callable[[], Any]]:
    """What the hybrid does, one thing after the other, each on what the one before found."""
    recommender, beam = answerer.recommender, answerer.config.beam
    past = Past.of(queries, recommender.candidates, evidence.JUDGED_AGAIN)
    states = answerer.encode(queries)
    generated = recommender.generate(states, beam=beam, k=beam, seen=past.items)
    vectors = recommender.query_vectors(states)
    retrieved = answerer.index.search(vectors, beam, past.items)

    def joined() -> None:
        others, weights = [retrieved, *answerer.like_history(queries, past)], answerer.weights("hybrid")
        best_of_union(recommender, queries, states, generated, others, beam, past, answerer.content, weights, K)

    return {
        "histories": lambda: answerer.encode(queries),
        "beams": lambda: recommender.generate(states, beam=beam, k=beam, seen=past.items),
        "vector search": lambda: answerer.index.search(recommender.query_vectors(states), beam, past.items),
        "joining": joined,
        "all, as mode generative": lambda: answerer.answer(queries, "generative"),
        "all, as mode hybrid": lambda: answerer.answer(queries, "hybrid"),
    }


def seconds_of(parts: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Medians; the parts take turns, the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(1 + repeats):
        for name, part in parts.items():
            began = clock()
            part()
            taken[name].append(clock() - began)
    return {name: median(times[1:]) for name, times in taken.items()}


def fallback(answerer: Answerer, queries: Queries, reason: str) -> dict[str, Any]:
    """Share of the queries that fall back, and their HitRate with and without it."""
    alone = answerer.with_settings(fallback=(reason,))
    answer = Answer.concatenate([alone.answer(batch, "generative") for batch in queries.batches(1024)])
    assert answer.fallback is not None
    fell, targets = answer.fallback > 0, Targets.of(queries)
    with_it, without = (
        query_metrics(r, targets, K).hit_rate for r in (answer.ranking, answer.alone or answer.ranking)
    )
    count = int(fell.sum())
    means = (
        {name: float(hits[fell].mean()) for name, hits in (("with", with_it), ("without", without))} if count else {}
    )
    return {"reason": reason, "share": count / len(fell), **means}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--beam", type=int, default=50)
    parser.add_argument("--batches", type=lambda text: [int(part) for part in text.split(",")], default=[1, 64, 512])
    parser.add_argument("--queries", type=int, default=4000, help="for the fallbacks; 0 for all")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    clock = time.perf_counter if settings.clock == "wall" else time.process_time
    dataset = Dataset.open(settings.data)
    config = AnswerConfig(k=K, beam=settings.beam, fallback=())
    answerer = Answerer(GenerativeRecommender.load(settings.model), config)
    every = dataset.split("test")
    queries = every.select(every.sampled(settings.queries or len(every)))
    costs: list[dict[str, Any]] = []
    for batch in (count for count in settings.batches if count <= len(queries)):
        seconds = seconds_of(parts_of(answerer, next(queries.batches(batch))), settings.repeats, clock)
        beside = seconds["all, as mode hybrid"] - seconds["vector search"]
        added = beside / seconds["all, as mode generative"] - 1
        costs.append({"batch": batch} | {n: 1000 * s for n, s in seconds.items()} | {"added to generating": added})
    fallbacks = [fallback(answerer, queries, reason) for reason in FALLBACKS]
    console = Console(width=150)
    table = Table(
        title=f"Milliseconds of a batch, {settings.clock} clock, {settings.threads} threads, beam {settings.beam}"
    )
    for column in costs[0]:
        table.add_column(column, justify="right")
    for row in costs:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else f"{value:.3g}" for value in row.values()))
    console.print(table)
    table = Table(title=f"The hybrid in place of mode generative, {len(queries):,} queries")
    for column in ("reason", "share", "HitRate@10 of these, beams alone", "with the hybrid"):
        table.add_column(column, justify="left" if column == "reason" else "right")
    for row in fallbacks:
        rates = [f"{row[name]:.4f}" if name in row else "–" for name in ("without", "with")]
        table.add_row(row["reason"], f"{row['share']:.4f}", *rates)
    console.print(table)
    hardware = {"machine": platform.machine(), "torch": torch.__version__, "threads": settings.threads}
    facts = {"data": str(settings.data), "items": dataset.num_items, "clock": settings.clock, "beam": settings.beam}
    print(json.dumps({"benchmark": "joining", **hardware, **facts, "costs": costs, "fallbacks": fallbacks}))


if __name__ == "__main__":
    main()

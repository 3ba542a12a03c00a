"""``semid explain item`` and ``semid explain user``."""

from typing import TYPE_CHECKING, Annotated

import typer

from semid.commands import options
from semid.commands.console import STDOUT, print_facts, print_table, write_json
from semid.commands.running import command

if TYPE_CHECKING:
    from semid.pipeline.explanation import QueryExplanation

app = typer.Typer(
    no_args_is_help=True, help="Say why an item has its codes, or why a user is recommended what it is."
)


@command(app, "item")
def item(
    item_id: Annotated[str, typer.Argument(metavar="ITEM_ID", show_default=False, help="Raw id.")],
    data: options.Data = options.DATA,
    tokenizer: options.Tokenizer = options.TOKENIZER,
    neighbours: Annotated[int, typer.Option(help="Items to name for each number of shared codes.")] = 3,
    titles: options.Titles = None,
    json: options.Json = None,
) -> None:
    """Say why an item has its codes: what each level explains, who shares them, whether it gave way."""
    from semid.data.dataset import Dataset
    from semid.pipeline.explaining_item import explain_item
    from semid.pipeline.naming import Names
    from semid.tokenizers.tokenizer import SemanticIdTokenizer

    dataset = Dataset.open(data)
    names = Names(dataset, titles)
    fitted = SemanticIdTokenizer.load(tokenizer)
    explained = explain_item(fitted, dataset, names.item(item_id), names=names, neighbours=neighbours)
    if json != STDOUT:
        print_facts(explained.summary_rows(), title=f"Item {item_id}")
        print_table(explained.level_rows(), title="Codes, and what each explains of the item's vector")
        if explained.neighbours:
            print_table(explained.neighbour_rows(), title="Nearest items, by the number of codes they share")
    if json is not None:
        write_json(json, explained.to_dict())


@command(app, "user")
def user(
    user_id: Annotated[str, typer.Argument(metavar="USER_ID", show_default=False, help="Raw id.")],
    data: options.Data = options.DATA,
    model: options.ModelPath = options.MODEL,
    split: Annotated[
        str, typer.Option(help="Of which its query is: valid, test, or next, after all of its events.")
    ] = "test",
    query: Annotated[
        int | None, typer.Option(help="Which of several queries, from 1 on; the last one.", show_default=False)
    ] = None,
    beam: options.Beam = 50,
    top_k: Annotated[int, typer.Option(help="Items of each list.")] = 10,
    filter_seen: options.FilterSeen = False,
    action: options.Action = "usual",
    fusion: options.Fusion = "auto",
    index: options.Index = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "cpu",
    events: Annotated[int, typer.Option(help="Events of the history to name.")] = 10,
    titles: options.Titles = None,
    json: options.Json = None,
) -> None:
    """Say why a user is recommended what it is: every mode's list, and all that spoke for each item."""
    from semid.data.dataset import Dataset
    from semid.generative.recommender import GenerativeRecommender
    from semid.pipeline.answer import AnswerConfig
    from semid.pipeline.answering import Answerer
    from semid.pipeline.explaining import explain_query, query_of
    from semid.pipeline.naming import Names

    config = AnswerConfig(
        k=top_k, **options.beam_settings(beam), filter_seen=filter_seen, action=action, fusion=fusion, factory=index
    )
    options.check_device(device)
    dataset = Dataset.open(data)
    names = Names(dataset, titles)
    asked = query_of(dataset, names.user(user_id), split, query)
    answerer = Answerer(GenerativeRecommender.load(model, device, precision), config)
    explained = explain_query(answerer, dataset, asked, names=names, events=events)
    if json != STDOUT:
        _print(explained, f"User {user_id}, split {split}")
    if json is not None:
        write_json(json, explained.to_dict())


def _print(explained: "QueryExplanation", title: str) -> None:
    print_facts(explained.summary_rows(), title=title)
    if explained.events:
        print_table(explained.event_rows(), title="Last events, 0 the very last")
    print_table(explained.list_rows(), title="Lists (* came next)")
    print_table(explained.item_rows(), title="Items: places in the lists, log-probability of the codes, cosine")
    mode = explained.modes[-1]
    print_table(explained.evidence_rows(mode), title=f"What {mode} ranks by: weight times value of each evidence")
    title = "Where they come from: places in the searches, and what of the history they are like"
    print_facts(explained.reason_rows(), title=title)

"""The options of every command that makes a model, in place of a preset's values."""

from dataclasses import replace
from typing import TYPE_CHECKING

from semid.commands import options
from semid.commands.running import OptionGroup, options_under
from semid.errors import InputError

if TYPE_CHECKING:
    from semid.generative.config import ModelConfig

_option = options_under("Model, in place of the preset's values")


class Architecture(OptionGroup):
    """What was given of :class:`semid.generative.config.ModelConfig`, by its names; None where nothing was."""

    parameters = (
        _option(
            "features",
            tuple[str, ...],
            "Inputs, of id, codes, prefixes, content, fields, graph, action, time, session, popularity, fourier, "
            "profile, user, as far as the data has them.",
            parser=options.names,
            metavar="NAME,…",
        ),
        _option("width", int, "Width of every token."),
        _option("layers", int, "Blocks of the trunk."),
        _option("heads", int, "Query heads."),
        _option("kv_heads", int, "Key and value heads."),
        _option("decoder_layers", int, "Blocks of the code decoder."),
        _option("experts", int, "Routed experts, the narrower the more a token uses; 0: none."),
        _option("experts_per_token", int, "Experts that a token uses."),
        _option("context_events", int, "Most recent events that are seen.", metavar="N"),
        _option("dropout", float, "Dropout on inputs and residual branches."),
        _option("contrastive_weight", float, "Weight of the item vector loss; 0 without."),
        _option("code_weight", float, "Weight of the code loss; 0 without."),
        _option("action_weight", float, "Weight of the next action loss; 0 without."),
        _option(
            "negatives",
            tuple[tuple[str, int], ...],
            "Negatives of catalogues too large for the full softmax, of the kinds uniform, popular, recent and hard; "
            "uniform:4096.",
            parser=options.counts,
            metavar="KIND:N,…",
        ),
        _option(
            "assignments",
            list[str],
            "Any value of the model, as layout=code, trunk.block=hstu or moe.num_experts=8; repeatable.",
            "--set",
            metavar="NAME=VALUE",
        ),
    )

    def config(self, preset: "ModelConfig") -> "ModelConfig":
        """What is given, --set last, then what the preset has.

        Raises:
            InputError: a value that no model can have.
        """
        from semid.generative.settings import with_settings

        given = {name: value for name, value in self.items() if value is not None}
        if "context_events" in given:  # a command's own context has that name
            given["context"] = given.pop("context_events")
        assignments = options.assignments(given.pop("assignments", []))
        experts, per_token = given.pop("experts", None), given.pop("experts_per_token", None)
        return with_settings(_with_experts(replace(preset, **given), experts, per_token), assignments)


def _with_experts(config: "ModelConfig", experts: int | None, per_token: int | None) -> "ModelConfig":
    from semid.generative.moe import MoEConfig

    if per_token and not experts:
        raise InputError("--experts-per-token needs --experts: give both or neither.")
    if experts is None:
        return config
    if experts == 0:
        return replace(config, moe=None)
    per_token = MoEConfig.experts_per_token if per_token is None else per_token
    hidden = -(-config.inner // (32 * (per_token + 1))) * 32  # with the shared one about as wide as without experts
    moe = MoEConfig(num_experts=experts, experts_per_token=per_token, hidden=hidden, shared_hidden=hidden)
    return replace(config, moe=moe)

"""The options of every command that trains, in place of a preset's values."""

from typing import TYPE_CHECKING, Any

from semid.commands import options
from semid.commands.running import OptionGroup, options_under

if TYPE_CHECKING:
    from semid.generative.presets import Preset
    from semid.generative.train import TrainConfig


_option = options_under("Training, in place of the preset's values")


class Training(OptionGroup):
    """What was given of :class:`semid.generative.train.TrainConfig`, by its names; None where nothing was."""

    parameters = (
        _option("epochs", int, "Passes over the training events; 0 chooses by their number.", default="0"),
        _option("max_minutes", float, "Be done after so long; 0 for no limit.", default="0"),
        _option("batch_tokens", int, "Tokens of a batch; 0 chooses by the data.", default="0"),
        _option("accumulate", int, "Parts of a batch that go one after the other, for less memory.", default="1"),
        _option("learning_rate", float, "Its peak.", default="0.002"),
        _option("weight_decay", float, "Of matrices.", default="0.1"),
        _option("warmup_share", float, "Share of the steps in which the learning rate rises.", default="0.05"),
        _option("clip", float, "Largest norm of the gradient.", default="1"),
        _option("patience", int, "Stop after so many validations without a better one.", default="6"),
        _option("checkpoint_minutes", float, "Save a checkpoint at least so often.", default="2"),
        _option("precision", str, "Of matrix products: auto, float32, or bfloat16.", default="auto"),
        _option("finetune_share", float, "Share of the steps, the last ones, with --finetune-weights.", default="0"),
        _option("finetune_rate", float, "Peak of the learning rate then, over its peak before.", default="0.3"),
        _option(
            "finetune_weights",
            tuple[float, ...],
            "How much a target counts then by its action, from the weakest on.",
            default="0,1",
            parser=options.floats_or_none,
            metavar="W,W",
        ),
    )

    def config(self, preset: "Preset", **given: Any) -> "TrainConfig":
        """What is given, then what the preset has, then the defaults."""
        from semid.generative.train import TrainConfig

        chosen = {name: value for name, value in self.items() if value is not None}
        return TrainConfig(**{**preset.train, **chosen, **given})

import pytest

from semid.errors import InputError
from semid.tokenizers.family import FAMILY, make_quantiser
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig
from semid.tokenizers.rq_vae import RQVAEConfig


def test_settings_are_the_config_with_defaults_for_the_rest() -> None:
    quantiser = make_quantiser("rq-kmeans", levels=2, codes=(8, 4))
    assert isinstance(quantiser, RQKMeans)
    assert quantiser.config == RQKMeansConfig(levels=2, codes=(8, 4))


def test_text_and_lists_are_read_by_the_type_of_the_setting() -> None:
    quantiser = make_quantiser("rq-kmeans", levels="2", codes="8, 4", seed=" 3 ")
    assert quantiser.config == RQKMeansConfig(levels=2, codes=(8, 4), seed=3)
    assert make_quantiser("rq-kmeans", codes="64").config.codes == 64
    assert make_quantiser("rq-kmeans", levels=2, codes=[8, 4]).config.codes == (8, 4)
    assert make_quantiser("rq-vae", hidden="64", collaborative="0.5", device="cpu").config == RQVAEConfig(
        hidden=(64,), collaborative=0.5, device="cpu"
    )
    assert make_quantiser("fsq", grid="None").config.grid is None
    assert make_quantiser("fsq", codes=64, grid="8,8").config.grid == (8, 8)


def test_mistakes_are_named_with_what_there_is() -> None:
    with pytest.raises(InputError, match=r"Unknown quantiser 'kmeans': use one of rq-kmeans"):
        make_quantiser("kmeans")
    with pytest.raises(InputError, match=r"rq-kmeans has no setting 'colour': it has levels, codes"):
        make_quantiser("rq-kmeans", colour=1)
    with pytest.raises(
        InputError, match=r"'levels' of the quantiser rq-kmeans cannot be 'many': give a whole number"
    ):
        make_quantiser("rq-kmeans", levels="many")
    with pytest.raises(InputError, match=r"'levels' of the quantiser rq-kmeans cannot be 2\.5"):
        make_quantiser("rq-kmeans", levels=2.5)
    with pytest.raises(InputError, match="cannot be True"):
        make_quantiser("rq-kmeans", levels=True)
    with pytest.raises(InputError, match="number of levels is 0"):
        make_quantiser("rq-kmeans", levels="0")


@pytest.mark.parametrize("name", list(FAMILY))
def test_every_member_has_levels_codes_and_a_seed(name: str) -> None:
    assert {"levels", "codes", "seed"} <= set(FAMILY[name].settings)

"""Text tasks that are ready: Bias in Bios as in the paper, the madlibs of toxic comments, GAP."""

from typing import Literal

from shift.tasks.text_specs import TextTaskSpec

Paper = Literal["pythia", "gemma"]
HE, SHE = ("he", "his", "him"), ("she", "her", "hers")

RELIGION = ("christian", "catholic", "protestant", "jewish", "muslim", "buddhist", "sikh", "taoist")
SEXUALITY = (
    *("gay", "lesbian", "bisexual", "homosexual", "heterosexual", "straight", "queer"),
    *("lgbt", "lgbtq", "trans", "transgender", "nonbinary"),
)
SPORT = (
    *("team", "teams", "season", "league", "club", "game", "games", "match", "matches", "coach", "cup", "player"),
    *("championship", "tournament", "football", "basketball", "baseball", "hockey", "tennis", "olympics", "olympic"),
)
SCREEN = (
    *("film", "films", "movie", "movies", "television", "tv", "series", "episode", "episodes", "actor", "actress"),
    *("show", "drama", "cast", "role", "starred", "comedy", "theatre", "album", "song", "songs", "band", "singer"),
)


def bias_in_bios(model: Paper = "pythia", path: str = "LabHC/bias_in_bios") -> TextTaskSpec:
    """Marks et al. 2024, section 4: professor or nurse, where all professors are men and all nurses are women.

    For Pythia-70m-deduped (resid_4) or Gemma-2-2B (resid_22). Of the rows of each kind as many are taken as the rarest
    has; that gives ambiguous sets of about 22,400 and 8,608 texts and balanced ones of about 4,512 and 1,736.
    """
    return TextTaskSpec(
        path,
        text="hard_text",
        label="profession",
        label_values=("21", "13"),
        attribute="gender",
        attribute_values=("0", "1"),
        intended="nurse, not professor",
        spurious="woman",
        test_split="test",
        site="resid_4" if model == "pythia" else "resid_22",
        pooled=True,
        max_length=512,
        train=None,
        test=None,
        cell=None,
        seed=42,
        as_published=True,
        head="paper",
        head_rate=1e-2,
        head_batch=128 if model == "pythia" else 32,
    )


def madlibs(
    path: str, site: str = "resid_2", *, train: int = 2000, test: int = 500, cell: int = 250, labelled: int = 1000
) -> TextTaskSpec:
    """Sentences of conversationai/unintended-ml-bias-analysis, such as "Joe is a kind muslim": bad or not bad.

    The confound is whom the sentence is about: all bad ones name a sexuality or gender identity, all others a religion.
    In the file every term is as often in bad sentences as in others, so the four cells are nearly full (6,000 to 9,100
    rows), each adjective stands with each term, and nothing but the confound tells the two groups of terms apart.
    """
    return TextTaskSpec(
        path,
        text="Text",
        label="Label",
        label_values=("NOT_BAD", "BAD"),
        attribute_words=(RELIGION, SEXUALITY),
        intended="bad",
        spurious="about sexuality or gender, not religion",
        site=site,
        max_length=48,
        train=train,
        test=test,
        cell=cell,
        labelled=labelled,
    )


def gap_gender(path: str, site: str = "resid_2", *, train: int = 200, test: int = 60, cell: int = 40) -> TextTaskSpec:
    """GAP (Webster et al. 2018): is the pronoun he or she, where men are all in sport and women all on screen or stage.

    `path`: one file, or a pattern such as data/gap-*.tsv for all three (4,454 texts). The topic is told by words before
    the pronoun, which the text is read up to; gender also by names and other pronouns, so neither is one word.
    """
    return TextTaskSpec(
        path,
        text="Text",
        label="Pronoun",
        label_values=(HE, SHE),
        attribute_words=(SPORT, SCREEN),
        intended="she, not he",
        spurious="on screen or stage, not sport",
        at="Pronoun-offset",
        site=site,
        train=train,
        test=test,
        cell=cell,
    )


def gap_coreference(
    path: str, site: str = "resid_15", *, train: int = 800, test: int = 200, cell: int = 150
) -> TextTaskSpec:
    """GAP: does the pronoun mean the first of two names, where it always does for women and never for men.

    The task that GAP was made for, and too hard for small models: see docs/shift_text.md for what probes reach.
    """
    return TextTaskSpec(
        path,
        text="Text",
        label="A-coref",
        label_values=("false", "true"),
        attribute="Pronoun",
        attribute_values=(HE, SHE),
        intended="the pronoun means the first name",
        spurious="woman",
        at="Pronoun-offset",
        site=site,
        pooled=False,
        train=train,
        test=test,
        cell=cell,
    )

"""What the document says first: an answer to each question of the study, in words that follow from the intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.intervals import Interval
from shift_truth.words import chosen, compared, depends, said, unkept

Numbers = Mapping[str, Any]
_WORTH_ASKING = 0.1  # share of the gap that the oracle's own trims close, below which nothing is left to lose


def in_short(numbers: Numbers) -> list[str]:
    """One entry for each question whose section is there."""
    lines = []
    if "battery" in numbers:
        methods = numbers["battery"]["methods"]
        lines += [closed_line(methods), *labels_lines(methods), judging_line(numbers["battery"]["judges"])]
    if "dictionaries" in numbers:
        lines += dictionary_lines(numbers["dictionaries"])
    if "depth" in numbers:
        lines.append(depth_line(numbers["depth"]))
    if "judges" in numbers:
        lines.append(judge_line(numbers["judges"]))
    if "injected" in numbers:
        lines += injected_lines(numbers["injected"])
    return lines


def closed_line(methods: Numbers) -> str:
    """What share of the gap SHIFT closes, with random features as the floor."""

    def closed(name: str) -> str:
        return said(unkept(methods[name]["gap_closed"]))

    kept = unkept(methods["shift"]["gap_closed"])
    verdict = chosen(kept, "narrows the gap", "widens the gap", "is not seen to narrow the gap or to widen it")
    said_of_kept = (
        f"**Un-retrained SHIFT {verdict}**: judged by the causal oracle it closes {said(kept)} of it with the trimmed "
        f"features at zero ({methods['shift']['tasks']} tasks)"
    )
    more = []
    if "shift_mean" in methods:
        more.append(f"{closed('shift_mean')} with them at their mean")
    if "shift_retrained" in methods:
        more.append(f"{closed('shift_retrained')} with the head fitted again")
    floor = []
    if "random" in methods:
        floor.append(f"{closed('random')}, SHIFT {compared(_lead(methods['random'], 'shift'))}")
    if "random_retrained" in methods:
        again = methods["random_retrained"]
        floor.append(f"retrained {closed('random_retrained')}, SHIFT {compared(_lead(again, 'shift_retrained'))}")
    random = f" As many random features close {'; '.join(floor)}." if floor else ""
    return ", ".join([said_of_kept, *more]) + "." + random


def labels_lines(methods: Numbers) -> list[str]:
    """What labelled prompts buy without features."""
    buys = {"leace": "LEACE", "leace_retrained": "LEACE and a new head", "intended_probe": "a probe for A",
            "last_layer": "last-layer retraining (DFR)"}  # fmt: skip
    found = [
        f"{title} {said(unkept(m['gap_closed']))}, {compared(unkept(m['more_than_shift_retrained']))}"
        for name, title in buys.items()
        if (m := methods.get(name)) is not None
    ]
    if not found:
        return []
    tasks = max(methods[name]["tasks"] for name in buys if name in methods)
    return [
        "What labels buy without features: the labelled prompts that the causal oracle needs, used directly, close "
        f"({tasks} tasks; in parentheses how much more than retrained SHIFT) {'; '.join(found)}."
    ]


def judging_line(judges: Numbers) -> str:
    """What each judge's trims close, and what follows the spurious property after them."""
    closed = [f"{j['judge']} {said(unkept(j['retrained']))}" for j in judges.values()]
    line = f"By judge, retrained SHIFT closes: {'; '.join(closed)}."
    if "turned" in judges and "concept" in judges:
        turned, concept = (judges[name]["spurious_retrained"] for name in ("turned", "concept"))
        line += f" With the roles exchanged the retrained head is right about B in {turned:.2f} (else {concept:.2f})."
    return line


def dictionary_lines(found: Numbers) -> list[str]:
    """Whether a better dictionary gives better SHIFT."""
    lines = []
    titles = {"shift": "un-retrained SHIFT closes", "shift_retrained": "retrained SHIFT closes"}
    for method, title in titles.items():
        parts = []
        for judge in ("causal", "concept"):
            rho = found["rho"][f"{judge} {method}"]
            each = " and ".join(depends(unkept(rho[name]), name) for name in ("coverage", "reconstruction"))
            parts.append(f"under the {judge} oracle {each}")
        lines.append(
            f"Better dictionaries, {len(found['sets'])} sets on {found['tasks']} tasks: what {title} "
            f"{'; '.join(parts)} (rank correlations)."
        )
    return lines


def depth_line(found: Numbers) -> str:
    """Whether SHIFT beats token deletion on deep cues and loses on shallow ones."""
    titles = {"tokens_erased": "erasing what words tell", "token_sites_full": "the first block alone"}
    every = [found["lead"][f"{rival}{kind}"] for rival in titles for kind in ("", "_retrained")]
    wins = sum(chosen(unkept(each["deep"]), "ahead", "", "") == "ahead" for each in every)
    losses = sum(chosen(unkept(each["shallow"]), "", "behind", "") == "behind" for each in every)

    def lead(rival: str) -> str:
        """Its numbers, shallow cues first."""
        return " and ".join(said(unkept(found["lead"][rival][half])) for half in ("shallow", "deep"))

    parts = [f"{title} {lead(rival)} (retrained {lead(f'{rival}_retrained')})" for rival, title in titles.items()]
    return (
        f"Token deletion: SHIFT's worst group is ahead on the deeper half of the cues in {wins} of {len(every)} "
        f"comparisons and behind on the shallower half in {losses} ({found['tasks']} tasks). Its lead on shallow and "
        f"deep cues over {'; over '.join(parts)}."
    )


def judge_line(found: Numbers) -> str:
    """How much recall and precision a judge needs to keep half of what the oracle's own trims close."""
    parts = []
    for title in ("to zero", "to zero, head retrained"):
        judges = found["judges"][title]
        perfect = next((j["gap_closed"] for j in judges if j["recall"] == 1 and j["asked"] == 1), None)
        if perfect is None:
            continue
        start = f"{title[0].upper()}{title[1:]}, the oracle's own trims close {perfect:.2f} of the gap"
        if perfect < _WORTH_ASKING:
            parts.append(f"{start}, so no judge is good enough for this")
            continue
        recall = needed([(j["recall"], j["gap_closed"]) for j in judges if j["asked"] == 1], perfect / 2)
        precision = needed([(j["precision"], j["gap_closed"]) for j in judges if j["recall"] == 1], perfect / 2)
        parts.append(
            f"{start}; half of that is kept {_until('recall', *recall)}, and {_until('precision', *precision)}"
        )
    tasks = f"{found['tasks']} {'task' if found['tasks'] == 1 else 'tasks'}"
    return f"How good a judge must be (the causal oracle made worse by lot, {tasks}): {'. '.join(parts)}."


def needed(measured: Sequence[tuple[float, float]], enough: float) -> tuple[float, float | None]:
    """The lowest quality down to which every measured share is enough, and the next one below, where it is not."""
    down = sorted(measured, reverse=True)
    failed = next((i for i, (_, share) in enumerate(down) if share < enough), len(down))
    return down[failed - 1][0], down[failed][0] if failed < len(down) else None


def injected_lines(found: Numbers) -> list[str]:
    """What the planted rule's study found, for each set of dictionaries."""
    lines = []
    for name, study in found.items():
        if "recovered" not in study:
            continue
        shares = study["recovered"]
        random = [share for key, share in shares.items() if key.startswith("random ")]
        floor = f", as many random features {sum(random) / len(random):.0%} in the mean" if random else ""
        lines.append(
            f"Of a rule planted in the model itself the concept oracle's trims bring back {shares['trimmed']:.0%}"
            f"{floor} (dictionaries: {name})."
        )
    return lines


def _lead(method: Numbers, rival: str) -> Interval:
    """How much more of the gap SHIFT closes than a method: the other way round than recorded."""
    more = unkept(method[f"more_than_{rival}"])
    low, high = (None if bound is None else -bound for bound in (more.high, more.low))
    return Interval(-more.value, low, high)


def _until(quality: str, lowest: float, failed: float | None) -> str:
    end = "the lowest measured" if failed is None else f"not at {failed:.2f}"
    return f"down to {quality} {lowest:.2f} ({end})"

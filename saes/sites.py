"""Sites: named tensors inside a transformers model, read by capture() and rewritten by intervene().

These are the only forward hooks in the project. At every module the active edits run first, in the order in
which they were entered, then the captures, however the two are nested: a capture always sees edited values.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from threading import Lock, get_ident
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor]


class SiteError(ValueError):
    """A site that the model does not have, or a value that does not fit it."""


@dataclass(frozen=True)
class Site:
    """A tensor inside a model: the input or output of one of its modules.

    `name` is the key in files, tables and plots (embed, attn_i, mlp_i, resid_i); `module` the dotted path in the
    transformers model. For a module that returns a tuple the first element is meant.
    """

    name: str
    module: str
    end: Literal["in", "out"] = "out"

    def __str__(self) -> str:
        return self.name


class _Stop(BaseException):
    """Ends a forward pass after the last captured site; a BaseException so that no model code swallows it."""


@dataclass
class _Tap:
    """What is attached to one end of one module."""

    edits: list[Edit] = field(default_factory=list)
    captures: list[Callable[[Tensor], None]] = field(default_factory=list)
    handle: Any = None

    def apply(self, value: Tensor) -> Tensor:
        for edit in tuple(self.edits):  # copies: another thread may enter or leave a block meanwhile
            edited = edit(value)
            if edited.shape != value.shape:
                raise SiteError(f"an edit returned shape {list(edited.shape)} for a site of shape {list(value.shape)}")
            value = edited
        for capture in tuple(self.captures):
            capture(value)
        return value


_taps: WeakKeyDictionary[nn.Module, dict[str, _Tap]] = WeakKeyDictionary()
_changing = Lock()  # of _taps and their hooks


def _module(model: nn.Module, site: Site) -> nn.Module:
    modules = dict(model.named_modules())
    if site.module not in modules:
        close = ", ".join(get_close_matches(site.module, modules, n=3, cutoff=0.3))
        raise SiteError(f"site {site.name!r}: {type(model).__name__} has no module {site.module!r}; nearest: {close}")
    return modules[site.module]


def _hook_output(tap: _Tap) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (tap.apply(output[0]), *output[1:])
        return tap.apply(output)

    return hook


def _hook_input(tap: _Tap) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (tap.apply(args[0]), *args[1:]), kwargs
        if "hidden_states" not in kwargs:
            raise SiteError(f"a {type(module).__name__} is called with {', '.join(kwargs)} only: its input is no site")
        return args, {**kwargs, "hidden_states": tap.apply(kwargs["hidden_states"])}

    return hook


@contextmanager
def _attached(model: nn.Module, site: Site, kind: Literal["edits", "captures"], call: Any) -> Iterator[None]:
    module = _module(model, site)
    with _changing:
        tap = _taps.setdefault(module, {}).setdefault(site.end, _Tap())
        if tap.handle is None:
            tap.handle = (
                module.register_forward_hook(_hook_output(tap))
                if site.end == "out"
                else module.register_forward_pre_hook(_hook_input(tap), with_kwargs=True)
            )
        calls: list[Any] = getattr(tap, kind)
        calls.append(call)
    try:
        yield
    finally:
        with _changing:
            del calls[len(calls) - 1 - calls[::-1].index(call)]  # the same edit may have been entered twice
            if not tap.edits and not tap.captures:
                tap.handle.remove()
                del _taps[module][site.end]


class _Capture:
    """One run's captured tensors, in forward order."""

    def __init__(self, sites: Iterable[Site], stop_after: bool) -> None:
        self.values: dict[Site, Tensor] = {}
        self._wanted = set(sites)
        self._stop_after = stop_after
        self._thread = get_ident()

    def at(self, site: Site) -> Callable[[Tensor], None]:
        def keep(value: Tensor) -> None:
            if get_ident() != self._thread:  # another thread's forward pass, such as a buffer's next refill
                return
            self.values.pop(site, None)  # a second forward pass starts the order again
            self.values[site] = value
            if self._stop_after and self._wanted <= self.values.keys():
                raise _Stop(self)

        return keep


@contextmanager
def capture(model: nn.Module, sites: Iterable[Site], *, stop_after: bool = True) -> Iterator[dict[Site, Tensor]]:
    """Collect the tensors of `sites` from the forward pass made inside the block, in forward order.

    With `stop_after` the pass ends, and the block is left, as soon as every site has been seen: put nothing after
    the model call. Without it the block runs on, and later passes replace the values (generate: the last one).
    Forward passes of other threads are not seen. Tensors are not detached.
    """
    sites = list(dict.fromkeys(sites))
    run = _Capture(sites, stop_after)
    with _all_attached(model, {site: run.at(site) for site in sites}, "captures"):
        try:
            yield run.values
        except _Stop as stop:
            if stop.args[0] is not run:  # an outer capture's pass ends here, not this one's
                raise


@contextmanager
def intervene(model: nn.Module, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """Replace the tensor at each site by edit(tensor) in every forward pass inside the block, generate() included."""
    with _all_attached(model, edits, "edits"):
        yield


@contextmanager
def _all_attached(model: nn.Module, calls: Mapping[Site, Any], kind: Literal["edits", "captures"]) -> Iterator[None]:
    with ExitStack() as stack:
        for site, call in calls.items():
            stack.enter_context(_attached(model, site, kind, call))
        yield

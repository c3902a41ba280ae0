"""From text to scores in a few lines of Python, without a run directory."""

import sys
import tempfile
from pathlib import Path

import outcrop as oc


def main(model_name: str, text_file: str, hookpoint: str, judge_address: str) -> None:
    judge = oc.connect(judge_address, None, oc.JudgeConfig())
    model, text = oc.load_model(oc.ModelConfig(model_name)), oc.TextConfig(text_file)
    parts = oc.deal(
        oc.read_documents(text), model.tokenizer, text, {"held_out": 5_000, "cache": 50_000, "train": 100_000}
    )
    [place] = oc.find_hookpoints(model.module, [hookpoint])
    coders = {oc.CoderKey("stack", place, place, seed=0): oc.CoderConfig(n_latents=1024, k=16, layers=3)}
    trained = oc.train_coders(model, parts["train"], parts["held_out"], coders, oc.TrainConfig(ce_tokens=1_000))
    [cache] = oc.cache_latents(
        model, parts["cache"], [one.placed for one in trained], Path(tempfile.mkdtemp()), oc.CacheConfig()
    )
    words = oc.vocabulary(model.tokenizer)
    survey = oc.survey(cache, words, oc.SelectConfig(n_latents=6), oc.ExamplesConfig())
    examples = list(oc.build_examples(survey, oc.ExamplesConfig()))
    explanations = list(oc.explain(examples, judge, words, oc.ExplainConfig()))
    judgements = list(oc.score(examples, explanations, judge, words, oc.ScoreConfig()))
    results = oc.tabulate([survey], examples, explanations, judgements)
    summary = oc.summarise(oc.read_tables(results), [one.reconstruction for one in trained], oc.ReportConfig())
    print(summary["ledger"]["counts"], *(explanation.text for explanation in explanations), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Answers and verdicts of the four foreign extractors, by their owners' own code.

lm-eval: RegexFilter and take_first as configured in the installed gsm8k.yaml, then its exact_match. verl: the installed
package's reward_score/gsm8k.py, loaded by its file, for the package itself imports torch and ray. Qwen: extract_answer and
math_equal of a checkout of QwenLM/Qwen2.5-Math at QWEN_COMMIT (parser.py, grader.py; latex2sympy2 left out).

Writes test/golden/extractors.json: generated adversarial texts with every answer and verdict, and for GSM8K only digests
and counts, never its text.
Run: python test/reference/extractors_reference.py QWEN_CHECKOUT GSM8K_FOLDER   (pins: test/reference/requirements-eval.txt)
"""
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import pathlib
import random
import re
import sys
import types

import lm_eval
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters import build_filter_ensemble

QWEN_COMMIT = "a45202bd16f1ec06f433442dc1152d0074773465"
logging.disable(logging.WARNING)


# --- the owners' code -------------------------------------------------------------------------------------------------
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


verl = load("verl_gsm8k", importlib.metadata.distribution("verl").locate_file("verl/utils/reward_score/gsm8k.py"))

config = yaml.safe_load((pathlib.Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())
lm_eval_filters = {
    f["name"]: [
        step()
        for step in build_filter_ensemble(
            f["name"], [(s["function"], {k: v for k, v in s.items() if k != "function"}) for s in f["filter"]]
        ).filters
    ]
    for f in config["filter_list"]
}
metric = config["metric_list"][0]


def no_latex2sympy(_):
    raise NotImplementedError


sys.modules["latex2sympy2"] = types.SimpleNamespace(latex2sympy=no_latex2sympy)
sys.modules["utils"] = types.ModuleType("utils")
qwen_folder = pathlib.Path(sys.argv[1]) / "evaluation"
parser = load("qwen_parser", qwen_folder / "parser.py")
grader = load("qwen_grader", qwen_folder / "grader.py")
qwen_strip = parser.strip_string


def lm_eval_answer(name, text):
    responses = [[text]]
    for step in lm_eval_filters[name]:
        responses = step.apply(responses, None)
    return list(responses)[0]


def lm_eval_right(answer, gold):
    keys = ("regexes_to_ignore", "ignore_case", "ignore_punctuation")
    score = exact_match_hf_evaluate(predictions=[answer], references=[gold], **{k: metric[k] for k in keys})
    return bool(score["exact_match"])


def verl_gold(gold):
    """As verl's examples/data_preprocess/gsm8k.py prepares the data."""
    return re.search("#### (\\-?[0-9\\.\\,]+)", gold).group(0).split("#### ")[1].replace(",", "")


def judge(text, gold):
    """[strict, flexible, verl, boxed before normalising], and their verdicts as a string of 0 and 1."""
    strict, flexible = (lm_eval_answer(name, text) for name in ("strict-match", "flexible-extract"))
    parser.strip_string = lambda string, skip_unit=False: string
    boxed = parser.extract_answer(text, "gsm8k")
    parser.strip_string = qwen_strip
    verdicts = (
        lm_eval_right(strict, gold),
        lm_eval_right(flexible, gold),
        verl.compute_score(text, verl_gold(gold)) == 1.0,
        grader.math_equal(parser.extract_answer(text, "gsm8k"), qwen_strip(gold.split("####")[1])),
    )
    return [strict, flexible, verl.extract_solution(text), boxed], "".join(str(int(bool(v))) for v in verdicts)


# --- adversarial texts ------------------------------------------------------------------------------------------------
SPELLINGS = [
    "{n}", "{n}.", "{n}.00", "{n}.0", "{n},", "{n}..", " {n}", "${n}", "${n}.00", "\\${n}", "$ {n}", "**{n}**", "-{n}", "- {n}",
    "+{n}", "−{n}", "({n})", "{n}%", "{n}\\%", "{n} apples", "{n} dollars", "{n}/1", "0{n}", "{c}", "{c}.00", "${c}", "{c}.",
    "{n}e0", "€{n}", "{n}\n", "{n}\n\n", "\n{n}", "\t{n}", "{n}!", "{n}?", "x={n}", "x = {n}", ".{n}", "{n}.5", "{n} - 1", "1 + {n}",
    "{n} {n}", "1 {n}", "{n};", "{n}:", "\u00a0{n}", "{w}", "", ".", ",", "-", "$", "$.", "--{n}", "{n}-", "{n}_", "'{n}'", "`{n}`",
]
FRAMES = [
    "#### {a}", "####{a}", "So.\n#### {a}", "#### 7\n#### {a}", "#### {a}\n#### 7", "### {a}", "##### {a}", "#### **{a}**",
    "\\boxed{{{a}}}", "$\\boxed{{{a}}}$.", "\\boxed {a}", "\\boxed{{{a}", "\\boxed{{\\text{{{a}}}}}", "\\boxed{{{a}\\text{{ apples}}}}",
    "\\boxed{{7}} or \\boxed{{{a}}}", "\\boxed{{{a}}} and #### 7", "The answer is {a}", "The answer is {a}.", "the final answer is {a}",
    "The final answer is ${a}$. I hope it is correct.", "{a}", "5 + 6 = {a}", "{a} is it, not 7", "Question: 7\nAnswer: {a}", "答案是{a}",
]
SPECIAL = [
    "", " ", "\n", "####", "#### ", "#### #### 18", "####\t18", "####\u00a018", "#### 18 ####", "####  18", "18 ####", "#### 1,8",
    "#### 18,000", "#### 1.8.0", "#### ...", "#### ,,,", "#### -", "#### --18", "#### 18-", "#### 18\r\n", "#### 18\r", "#### 18\u2028",
    "#### １８", "\\boxed{１８}", "#### ١٨", "answer ١٨", "18 sold..", "$18.00.", "1,234.", "18 km", "-18", "- 18", "2-18", "2--18", "3.18", ".18",
    "\\boxed", "\\boxed{", "\\boxed{}", "boxed{18}", "unboxed 18", "\\boxed{{18}}", "\\boxed{\\{18\\}}", "\\boxed{\\frac{36}{2}}",
    "\\boxed{\\dfrac{36}{2}}", "\\boxed{36/2}", "\\boxed{18\\,\\text{km}}", "\\boxed{\\text{18}}", "\\boxed{18^\\circ}", "\\boxed{18^{\\circ}}",
    "\\boxed{1800}", "\\boxed{0.18}", "\\boxed{18.001}", "\\boxed{18.01}", "\\boxed{k=18}", "\\boxed{total=18}", "\\boxed{\\left(18\\right)}",
    "\\boxed{(18)}", "\\boxed{18\\!}", "\\boxed{1{,}800}", "\\boxed{18}\\boxed", "\\fbox{18}", "\\boxed 18$ and 7", "\\boxed{18\n}", "\\boxed{:18}",
    "\\boxed{18/}", "\\boxed{18./}", "He answer is 18", "the answer is: 18", "the answer is 18/", "the answer is\n18", "the answer is 7, the answer is 18",
    "final answer is 18", "final answer is $18$", "the final answer is $18$. I hope", "答案是18\n\n7", "ки#### 18", "1ки8", "\ufeff18", "18\u0085",
    "the answer is \u00a018\u00a0", "the answer is \x1c18\x1c", "\U0001d7cf\U0001d7d6", "😀" * 150 + "#### 18", "😀" * 295 + "#### 18",
    "#### 18" + "😀" * 292, "#### 18" + "😀" * 293, "#### 18" + "😀" * 294, "#### 18" + "x" * 292, "#### 18" + "x" * 293, "#### 18" + "x" * 294, "#### 18" + " x" * 300,
    "7" * 400, "#### " + "7" * 300, "#### 18\n" + "so it is. " * 35, "Ada has 20 - 5 = 15 pens.\nWith 3 more it is 15 + 3 = $18.\n#### 18",
    "#### 18" * 40, "<<6*3=18>>18\n#### 18", "İ #### 18", "#### 18</s>", "1e400", "the answer is 1e400", "\\boxed{1e1}", "\\boxed{1_8}", "\\boxed{nan}", "\\boxed{inf}",
]
WORDS = {18: "eighteen", 3: "three", 1234: "one thousand", 0: "zero", -5: "minus five", 70000: "seventy thousand"}


def spelled(pattern, n):
    return pattern.replace("{n}", str(n)).replace("{c}", f"{n:,}").replace("{w}", WORDS[n])


def adversarial():
    draw = random.Random(7)
    for text in SPECIAL:
        yield text, "#### 18"
    for spelling in SPELLINGS:
        for frame in draw.sample(FRAMES, 7) + FRAMES[:1]:
            n = draw.choice(list(WORDS))
            golds = [f"steps\n#### {n}", f"#### {n:,}", f"7 * 1 = 7\n#### {n}\n", "#### 7"]
            yield frame.format(a=spelled(spelling, n)), draw.choice(golds)


# --- GSM8K: every gold answer, in five frames -------------------------------------------------------------------------
def gsm8k(path):
    digest, right, texts = hashlib.sha256(), [0] * 4, 0
    for line in path.read_text(encoding="utf-8").splitlines():
        gold = json.loads(line)["answer"]
        number = gold.split("#### ")[1]
        for text in (gold, f"The answer is ${number}.", f"so \\boxed{{{number}}}.", f"#### {number}.00", f"{gold}\nThat is all."):
            answers, verdicts = judge(text, gold)
            digest.update((json.dumps([*answers, verdicts], ensure_ascii=False, separators=(",", ":")) + "\n").encode())
            right = [count + int(v) for count, v in zip(right, verdicts)]
            texts += 1
    return {"texts": texts, "right": right, "sha256": digest.hexdigest()}


cases = []
for text, gold in dict.fromkeys(adversarial()):
    answers, verdicts = judge(text, gold)
    cases.append([text, gold, *answers, verdicts])
digests = {path.stem: gsm8k(path) for path in sorted(pathlib.Path(sys.argv[2]).glob("*.jsonl"))}
path = pathlib.Path(__file__).parent.parent / "golden" / "extractors.json"
rows = ",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases)
path.write_text(f'{{"gsm8k":{json.dumps(digests)},\n"cases":[\n{rows}\n]}}\n')
print(f"{path.name}: {len(cases)} texts, {path.stat().st_size} bytes, {digests}")

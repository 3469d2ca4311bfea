# SPDX-License-Identifier: Apache-2.0
"""Ways of saying an answer, and ways of saying that something is not the answer, by kind.

Each is drawn from what it is made of: an opening, a frame, a form of the value, an ending. Nothing
here knows how the verdict is found.
"""

import random
from fractions import Fraction

_OPENINGS = ("", "", "So ", "Therefore, ", "Thus, ", "Hence ", "In conclusion, ", "Finally, ")
_ENDINGS = ("", "", ".", "!", " ", "\n")
_REASONS = (
    " because it is nearer to the camera",
    ", because the others are further away",
    ", since the lamp stands behind it",
    ", as can be seen in the picture",
    " because I looked at the shadows",
)
_UNITS = "one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def pick(draw, *options):
    return draw.choice(options)


# numbers


def in_words(n, draw=None):
    """A whole number below a million in English."""
    if n < 10:
        return (["zero", *_UNITS])[n]
    if n < 20:
        return _TEENS[n - 10]
    if n < 100:
        rest = n % 10
        joint = "-" if draw is None else draw.choice("- ")
        return _TENS[n // 10 - 2] + (f"{joint}{_UNITS[rest - 1]}" if rest else "")
    if n < 1000:
        rest, joint = n % 100, " and " if draw is None else draw.choice((" ", " and "))
        return f"{_UNITS[n // 100 - 1]} hundred" + (
            f"{joint}{in_words(rest, draw)}" if rest else ""
        )
    thousands, rest = divmod(n, 1000)
    joint = " and " if rest < 100 else " "
    return f"{in_words(thousands, draw)} thousand" + (
        f"{joint}{in_words(rest, draw)}" if rest else ""
    )


def grouped(n, mark):
    return f"{n:,}".replace(",", mark)


def whole_number(draw):
    """A whole number and a form of it."""
    n = draw.choice((draw.randint(2, 20), draw.randint(2, 99), draw.randint(2, 999_999)))
    forms = [
        str(n),
        str(n),
        f"{n}.0",
        f"+{n}",
        f"0{n}",
        in_words(n, draw),
        in_words(n).capitalize(),
    ]
    forms += [f"${n}$", f"\\boxed{{{n}}}", f"**{n}**", f"\\({n}\\)", f"\\text{{{n}}}", f"`{n}`"]
    if n > 999:
        forms += [grouped(n, mark) for mark in (",", " ", "'", "{,}")]
    if n % 1000 == 0:
        forms += [f"{n // 1000} thousand", f"{n // 1000}e3", f"{n // 1000} \\times 10^3"]
    forms += ["".join(chr(zero + int(d)) for d in str(n)) for zero in (0x660, 0x966, 0xFF10)]
    return str(n), draw.choice(forms)


def fraction(draw):
    bottom = draw.choice((2, 3, 4, 5, 8, 10))
    top = draw.randint(1, bottom - 1)
    value, whole = Fraction(top, bottom), draw.randint(0, 12)
    names = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 8: "eighth", 10: "tenth"}
    said = f"{in_words(top)} {names[bottom]}{'s' if top > 1 else ''}"
    forms = [f"{top}/{bottom}", f"\\frac{{{top}}}{{{bottom}}}", f"{top} / {bottom}"]
    forms += [said] if bottom > 2 else ["half", "one half", "a half"]
    if whole:
        forms = [f"{whole} {top}/{bottom}", f"{whole}\\frac{{{top}}}{{{bottom}}}"]
        forms += [f"{in_words(whole)} and {said}"] if bottom > 2 else [f"{whole} and a half"]
    return str(whole + value), draw.choice(forms)


def decimal(draw):
    whole, part = draw.randint(0, 9999), draw.choice(("5", "25", "75", "125"))
    gold = f"{whole}.{part}"
    forms = [gold, f"{gold}0", f"\\${gold}", f"${gold}$"]
    if len(part) < 3:
        forms += [f"{whole},{part}", f"{whole},{part} cm"]
    if whole > 999:
        forms += [f"{grouped(whole, '.')},{part}", f"{grouped(whole, ',')}.{part}"]
    return gold, draw.choice(forms)


_COUNTED = ("cubes", "red cubes", "apples", "people", "small green balls", "bars")


def number_right(draw):
    """(gold, answer): a number said in some way."""
    gold, form = draw.choice((whole_number, whole_number, fraction, decimal))(draw)
    frames = ["{}", "{}", "The answer is {}", "It is {}", "x = {}", "The total is {}"]
    frames += ["I think it is {}", "My answer is {}", "Answer: {}", "The final answer is {}"]
    frames += ["The result equals {}", "This gives {}", "The length of the side is {}", "about {}"]
    if gold.isdigit() and not form.startswith(("$", "\\", "*", "`")):
        what = draw.choice(_COUNTED)
        frames += [f"{{}} {what}", f"There are {{}} {what}", f"I can see {{}} {what}"]
        frames += [f"There are {{}} {what} with a height below 40", f"There are {{}} {what} left"]
        frames += [f"Tom has {{}} {what}", "a total of {}", "exactly {}", "{} is correct"]
    frame = draw.choice(frames)
    if frame != "{}" and form.endswith(("cm",)):
        frame = "{}"
    said = frame.format(form)
    reason = draw.choice(_REASONS) if draw.random() < 0.15 else ""
    ending = draw.choice(("", "", ".", " ", "\n"))  # 5! is a factorial
    return gold, draw.choice(_OPENINGS) + said + reason + ending


def number_wrong(draw):
    """(gold, answer): something that is said of the number other than that it is the answer."""
    n = draw.randint(2, 999)
    form = draw.choice((str(n), str(n), in_words(n, draw), f"${n}$", f"**{n}**"))
    frames = (
        *("not {}", "isn't {}", "It is not {}", "The answer is not {}", "It can't be {}"),
        *("The answer isn't {}", "never {}", "cannot be {}", "anything but {}", "all but {}"),
        *("{} is wrong", "{} is incorrect", "{} is not the answer", "{} is false", "no, not {}"),
        *("{} can be ruled out", "I doubt that it is {}", "I don't think it is {}", "neither {}"),
        *("It is not true that the answer is {}", "other than {}", "everything except {}"),
        *("at least {}", "at most {}", "more than {}", "less than {}", "fewer than {}", "over {}"),
        *("under {}", "up to {}", "a minimum of {}", "a maximum of {}", "no more than {}"),
        *("{} or more", "{} or less", "{} at most", "{} or so", "not less than {}", "almost {}"),
        *("the square of {}", "the square root of {}", "half of {}", "twice {}", "double {}"),
        *("{} squared", "the cube of {}", "a third of {}", "the reciprocal of {}", "{} factorial"),
        *("one more than {}", "{} million", "{} trillion", "{} dozen", "a multiple of {}"),
        *("minus {}", "negative {}", "the difference between the {}", "none of the {}"),
        *("{} or {other}", "{} and {other}", "between {} and {other}", "{} to {other}"),
        *("either {} or {other}", "{other} or {}", "{} times {other}", "{} plus {other}"),
        *("sqrt {}", "step {}", "question {}", "{} out of {other}", "within {} of {other}"),
    )
    said = draw.choice(frames).replace("{other}", str(n + draw.randint(1, 50))).format(form)
    return str(n), draw.choice(_OPENINGS) + said + draw.choice((*_ENDINGS, *_REASONS))


# choices

_OPTIONS = (
    ("left", "right", "above", "below"),
    ("yes", "no"),
    ("a cat", "a dog", "a horse"),
    ("5", "10", "15", "20"),
    ("red", "green", "dark blue", "cannot be determined"),
    ("12 cm", "14 cm", "16 cm", "18 cm"),
    None,
)


def _choice(draw):
    options = draw.choice(_OPTIONS)
    letter = draw.choice("ABCD"[: len(options) if options else 4])
    text = options["ABCD".index(letter)] if options else ""
    return letter, text, options


def mcq_right(draw):
    """(gold, answer, options): an option that is declared."""
    letter, text, options = _choice(draw)
    forms = [letter, f"({letter})", f"[{letter}]", f"**{letter}**", f"\\boxed{{{letter}}}"]
    forms += [f"option {letter}", f"option ({letter.lower()})", f"Option {letter}", f'"{letter}"']
    if text:
        forms += [f"({letter}) {text}", f"{letter}. {text}", f"{letter}) {text}"]
        forms += [f"**{letter}. {text}**", text, text, f"({letter.lower()}) {text}"]
    form = draw.choice(forms)
    frames = ["{}", "{}", "The answer is {}", "The correct answer is {}", "Answer: {}"]
    frames += ["My final answer is {}", "The correct option is {}", "It is {}", "I choose {}"]
    frames += ["The best choice is {}", "I think the answer is {}", "Final answer: {}"]
    frames += ["The correct option letter is {}", "I would go with {}", "The answer must be {}"]
    frame, bare = draw.choice(frames), form in forms[:9] and form != f'"{letter}"'
    if bare and draw.random() < 0.2 and "boxed" not in form:
        frame = draw.choice(("{} is correct", "{} is the right answer", "{} is the answer"))
    said = frame.format(form)
    return letter, draw.choice(_OPENINGS) + said + draw.choice((*_ENDINGS, *_REASONS)), options


def mcq_wrong(draw):
    """(gold, answer, options): what is said of the option other than that it is the answer."""
    letter, text, options = _choice(draw)
    other = draw.choice([x for x in "ABCD"[: len(options) if options else 4] if x != letter])
    form = draw.choice((letter, f"({letter})", f"option {letter}", f"**{letter}**", text or letter))
    other_text = options["ABCD".index(other)] if options else other
    frames = [
        *("not {}", "It is not {}", "It isn't {}", "The answer is not {}", "The answer isn't {}"),
        *("{} is wrong", "{} is incorrect", "{} is false", "{} is not correct", "{} is not right"),
        *("{} can be ruled out", "{} does not fit", "{} cannot be the answer", "{} can't be right"),
        *("{} is never right", "{} has been eliminated", "anything but {}", "everything except {}"),
        *("I don't think it is {}", "I doubt that the answer is {}", "I would not choose {}"),
        *("It is not true that the answer is {}", "The wrong answer is {}", "rule out {}"),
        *("{} or {other}", "{other} or {}", "either {} or {other}", "{}, or maybe {other}"),
        *("{} or none", "{other}, not {}", "{other} rather than {}", "neither {} nor {other}"),
        *("{} and {other}", "{other} instead of {}", "The incorrect option is {}", "avoid {}"),
        *("{}. That is wrong.", "{}, which is wrong", "{} is unlikely", "not {} but {other}"),
        *("The answer is {}. The answer is {other}.", "{other}? {}?"),
    ]
    if options:
        frames += [
            f"{letter}. {other_text}",
            f"({letter}) {other_text}",
            f"{other_text} ({letter})",
        ]
    said = draw.choice(frames).replace("{other}", other).format(form)
    return letter, draw.choice(_OPENINGS) + said + draw.choice(_ENDINGS), options


# mathematics


def math_right(draw):
    a, b, c = draw.randint(2, 9), draw.randint(2, 9), draw.randint(2, 9)
    d = draw.choice([n for n in range(2, 12) if n != a])
    low, high = sorted((a, d))
    pairs = (
        (f"{a}\\sqrt{{{b}}}", (f"{a}√{b}", f"{a}*sqrt({b})", f"\\sqrt{{{a * a * b}}}")),
        (f"\\frac{{{a}\\pi}}{{{b}}}", (f"{a}π/{b}", f"\\frac{{{a * c}\\pi}}{{{b * c}}}")),
        (f"{a * b}", (f"{a} \\times {b} = {a * b}", f"x = {a * b}", f"A = {a}*{b} = {a * b}")),
        (f"\\frac{{{a}}}{{{b}}}", (f"{a}/{b}", f"\\frac{{{a * c}}}{{{b * c}}}", f"{a}÷{b}")),
        (f"\\{{{a}, {d}\\}}", (f"x={a} or x={d}", f"{d}, {a}", f"{{{d}, {a}}}", f"{d} and {a}")),
        (f"({low}, {high}]", (f"]{low}, {high}]", f"{low}<x\\le {high}", f"x \\in ({low},{high}]")),
        (f"[{low}, {high})", (f"[{low}, {high}[", f"{low} \\le x < {high}")),
        (f"y={a}x+{b}", (f"{a}x+{b}", f"f(x)={b}+{a}x", f"y = {b} + {a}x")),
        (f"10^{{-{a + 9}}}", (f"\\frac{{1}}{{10^{{{a + 9}}}}}", f"10^{{-{a + 9}}}")),
        (f"Area $={a}.5 \\mathrm{{~cm}}^{{2}}$", (f"{a}.5", f"{a}.5 cm^2", f"A = {a}.5")),
        ("\\emptyset", ("\\{\\}", "\\varnothing", "∅")),
        (f"({a}, {b})", (f"({a},{b})", f"\\left({a}, {b}\\right)", f"(x,y)=({a},{b})")),
    )
    gold, forms = draw.choice(pairs)
    form = draw.choice((*forms, gold))
    wraps = (
        ("{}",)
        if "$" in form
        else ("{}", "${}$", "\\boxed{{{}}}", "\\({}\\)", "The answer is ${}$", "$\\boxed{{{}}}$")
    )
    return gold, draw.choice(wraps).format(form) + draw.choice(("", ".", "\n"))


def math_wrong(draw):
    a, b = draw.randint(2, 9), draw.randint(2, 9)
    c = draw.choice([n for n in range(2, 12) if n not in (a, b)])
    golds = (f"{a}\\sqrt{{{b}}}", f"\\frac{{{a}\\pi}}{{{b}}}", f"{a}x+{b}", f"{10 * a + b}")
    gold = draw.choice(golds)
    said = (
        *("not {}", "\\not={}", "x \\ne {}", "isn't {}", "{} is wrong", "anything but {}"),
        *("{} or {c}", "\\boxed{{{}}} or \\boxed{{{c}}}", "x > {}", "x \\le {}", "at least {}"),
        *("{}+{c}", "-{}", "\\frac{{{}}}{{{c}}}", "\\sqrt{{{}}}", "({})^2", "{}, {c}", "({}, {c})"),
        *("\\{{{}, {c}\\}}", "{} = {c}", "{} trillion", "It is not true that it is {}"),
        *(
            "\\text{{not }}{}",
            "the square of {}",
            "{} \\pm {c}",
            "|{}|-{c}",
            "{}x{}".format("{}", ""),
        ),
    )
    form = draw.choice(said).replace("{c}", str(c)).format(gold)
    return gold, draw.choice(("{}", "${}$")).format(form)


# boxes and text


def box_right(draw):
    x1, y1 = draw.randint(0, 400), draw.randint(0, 400)
    x2, y2 = x1 + draw.randint(1, 300), y1 + draw.randint(1, 300)
    comma = draw.choice((",", ", "))
    bare = comma.join(map(str, (x1, y1, x2, y2)))
    corners = f"({x1}{comma}{y1}){comma}({x2}{comma}{y2})"
    forms = (
        *(bare, f"[{bare}]", f"({bare})", corners, f"[[{bare}]]", f"{x1} {y1} {x2} {y2}"),
        *(f"<|box_start|>{corners}<|box_end|>", f"<box>{corners}</box>", f"$[{bare}]$"),
        f"<|object_ref_start|>the dog<|object_ref_end|><|box_start|>{corners}<|box_end|>",
        f'{{"bbox_2d": [{bare}], "label": "no dog"}}',
        f'```json\n[{{"bbox_2d": [{bare}]}}]\n```',
        f"x1={x1}, y1={y1}, x2={x2}, y2={y2}",
        f'{{"x1": {x1}, "y1": {y1}, "x2": {x2}, "y2": {y2}}}',
        f"xmin={x1}, ymin={y1}, xmax={x2}, ymax={y2}",
        *(f"The box is [{bare}].", f"The bounding box is {corners}.", f"[[{x1},{y1}],[{x2},{y2}]]"),
    )
    return f"[{x1}, {y1}, {x2}, {y2}]", draw.choice(forms)


def box_wrong(draw):
    x1, y1 = draw.randint(1, 400), draw.randint(1, 400)
    x2, y2 = x1 + draw.randint(1, 300), y1 + draw.randint(1, 300)
    bare = f"{x1}, {y1}, {x2}, {y2}"
    forms = (
        *(f"not [{bare}]", f"[{bare}] is wrong", f"The box isn't [{bare}]", f"never {bare}"),
        *(f"[{bare}] or [0, 0, 1, 1]", f"[{bare}], [{bare}]", f"anything but [{bare}]"),
        *(f"[{x2}, {y2}, {x1}, {y1}]", f"[{x1}, {y1}, {x2}]", f"[{bare}, 5]", f"{bare} or none"),
        *(f"x={x1}, y={y1}, w={x2}, h={y2}", f"[{x1}, {y1}, {x2}, nan]", f"all but ({bare})"),
        f'{{"x": {x1}, "y": {y1}, "width": {x2}, "height": {y2}}}',
    )
    return f"[{bare}]", draw.choice(forms)


_TEXTS = ("ice-cream van", "the red box", "3.5 km", "No parking", "email", "left", "-5", ".5")


def text_right(draw):
    gold = draw.choice(_TEXTS)
    form = draw.choice((gold, gold.upper(), gold.lower(), f" {gold} ", f"**{gold}**", f"“{gold}”"))
    form = form.replace("-c", draw.choice(("-c", " c", "c"))) if "ice" in gold else form
    said = draw.choice(("{}", "{}", "The answer is {}", "Answer: {}")).format(form)
    return gold, said + draw.choice(("", ".", "\n"))


def text_wrong(draw):
    gold = draw.choice(_TEXTS)
    forms = ("not {}", "{} or another", "no {}", "{} is wrong", "never {}", "{}{}", "{} and more")
    changed = {"-5": ("5", "- .5"), ".5": ("5", "-.5"), "3.5 km": ("35 km", "-3.5 km")}
    said = [form.format(gold, gold) for form in forms] + list(changed.get(gold, ()))
    return gold, draw.choice(said)


RIGHT = {
    "number": number_right,
    "mcq": mcq_right,
    "math": math_right,
    "bbox": box_right,
    "text": text_right,
}
WRONG = {
    "number": number_wrong,
    "mcq": mcq_wrong,
    "math": math_wrong,
    "bbox": box_wrong,
    "text": text_wrong,
}


def cases(kind, ways, count):
    """(gold, answer, options) `count` times."""
    for number in range(count):
        gold, answer, *options = ways[kind](random.Random(f"{kind} {number}"))
        yield gold, answer, options[0] if options else None

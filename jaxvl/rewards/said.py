# SPDX-License-Identifier: Apache-2.0
"""How an answer is said in words: what may stand before it, what takes it back, where its reason
begins. Shared by the kinds of answers and by the search for an answer in a reply without tags.

Every pattern takes time linear in a text but for a small bounded look back or ahead.
"""

from __future__ import annotations

import re

# Words after which a sentence no longer says what it names. Chinese has no spaces.
NEGATIVE = re.compile(
    r"\b(?:not|never|no|none|neither|nor|nobody|nothing|nowhere|cannot|without|except(?:ing)?|"
    r"unless|but|wrong(?:ly)?|incorrect(?:ly)?|inaccurate|inappropriate|false|untrue|invalid|"
    r"impossible|unlikely|unsure|unable|doubt\w*|disagree\w*|mistaken(?:ly)?|mistake|error|"
    r"(?:rul(?:e|es|ed|ing)|cross(?:ed)?|throw|thrown) (?:\w+ )?out|eliminat\w+|exclud\w+|"
    r"reject\w*|discard\w*|dismiss\w*|refut\w+|disprov\w+|contradict\w*|den(?:y|ies|ied)|"
    r"fail\w*|lacks?|avoid\w*|ignor\w+|disregard\w*|forget|skip|omit\w*|"
    r"almost(?! certainly)|nearly|distractors?|hardly|scarcely|barely|"
    r"(?:instead|rather|other|far|away|opposite|apart|aside|different|differs?) (?:of|than|from)|"
    r"(?:is|are|was|were|do|does|did|ca|wo|would|could|should)nt)\b|n't\b"
    r"|[不非没沒無无未]|排除|[错錯误誤]|除了",
    re.IGNORECASE,
)
HEDGE = re.compile(r"\b(?:or|either|versus|vs|whichever|and/or)\b|或|还是|[/|]", re.IGNORECASE)
# From here on a sentence says why. "as" alone may compare.
REASON = re.compile(
    r"(?:\b(?:because|since|due to|given that|seeing that|considering|whereas|based on|"
    r"according to|as (?:it|he|she|they|we|i|you|can|this|that|these|those|the|there|shown|seen|"
    r"indicated|both|each|in (?:the|this)))\b|,\s*(?:as|for|where|while|with)\b"
    r"|,\s*which\b(?!\s*(?:(?:is|was|are)(?:n't)?\s+)?(?:wrong|incorrect|false|not|untrue|invalid)\b)"
    r"|因为|由于|理由)",
    re.IGNORECASE,
)
_BECAUSE = re.compile(
    r"\s*(?:because|since|as|given|considering|based on|according to|although|though|while|if)\b",
    re.IGNORECASE,
)
_COMMA = re.compile(r",\s+(?!(?:and|or|but|nor|not)\b)")
_ADJECTIVE = (
    r"(?:(?:final|only|correct|right|best|true|accurate|appropriate|suitable|chosen|selected|short|"
    r"most|likely|possible|probable|closest|single|resulting|final)\s+){0,3}"
)
NOUN = (
    r"(?:(?:answer|option|choice)\s+(?:letter|choice|option|label)|answer|option|choice|letter|"
    r"response|solution|selection|result|conclusion|prediction)"
)
_ABOUT = (
    r"(?:\s+(?:to|for|of|in|from|among)\s+(?:the|this|that|these|your|our|my|all|part|question)\b"
    r"(?:\s+[\w'-]+){0,8}?|\s+here)?"
)
COPULA = (
    r"(?:(?:is|are|was|would\s+be|must\s+be|should\s+be|will\s+be|has\s+to\s+be|might\s+be|may\s+be|"
    r"could\s+be|can\s+be|can\s+only\s+be|seems\s+to\s+be|appears\s+to\s+be)\b\s*:?"
    r"|:\s*(?:is\b)?|=|->)"
)
_ADVERB = (
    r"(?:(?:therefore|thus|then|hence|so|also|indeed|clearly|definitely|certainly|simply|probably|"
    r"likely|most likely|obviously|actually|exactly|just)\s*,?\s+){0,2}"
)
OPENING = (  # of a sentence: "So, ", "Therefore ", "In conclusion, ", a bullet
    r"(?:(?:so|thus|therefore|hence|then|finally|now|overall|ok|okay|well|accordingly|"
    r"consequently|in conclusion|in summary|to conclude|as a result|based on [\w\s']{1,60}?)"
    r"\s*(?:,|:|(?=\s))\s*|(?:所以|因此|故|综上所述)[,:]?|"
    r"(?:among|of|from|out of) (?:the|these|all)\b[\w\s]{1,40},\s*|[-*>•#]+\s+){0,3}"
)
_I_SAY = (
    r"(?:(?:i|we)(?:'d|'ll|'m|\s+would|\s+will|\s+am|\s+can|\s+do|\s+must)?\s+(?:confident|sure|"
    r"think|thinks|believe|say|guess|conclude|find|choose|chose|pick|picked|select|selected|"
    r"answer|vote for|opt for|going with|go with|went with|see|get|got)(?:\s+that)?\s*:?\s*)?"
)
DECLARES = (  # "the answer is", "my final answer would be", "Answer:"
    rf"(?:(?:the|my|our|its|your|an?)\s+)?{_ADJECTIVE}{NOUN}{_ABOUT}\s*{COPULA}\s*:?\s*{_ADVERB}"
)
_POINTS = (  # "it is", "this must be"
    rf"(?:(?:it|this|that|he|she|they|here)\s*(?:'s\s|{COPULA})\s*{_ADVERB})"
)
_CHINESE = (
    r"(?:所以|因此|故|综上|综上所述)?[,:]?\s*(?:我)?(?:(?:正确|最终|最佳)?(?:答案|选项|回答)\s*(?:应该|应)?"
    r"[是为选]?|应?选择?|故选)\s*:?\s*(?:选项)?\s*"
)
_DO = r"(?:(?:choose|select|pick|go with)\s+|(?:correct|final)\s*:\s*)?"
_MAYBE = (
    r"(?:(?:maybe|perhaps|probably|possibly|most likely|likely|definitely|clearly|surely)\s*,?\s+)?"
)
# All that may stand before an answer in a sentence that does nothing but say it.
LEAD = re.compile(
    rf"{OPENING}{_MAYBE}{_I_SAY}{_DO}(?:{DECLARES}|{_POINTS})?(?:(?:the|an?|only)\s+)?|{_CHINESE}",
    re.IGNORECASE,
)
# The end of a sentence that declares: what follows is the answer.
DECLARED = re.compile(
    rf"\b(?P<final>final\s+)?(?:(?:correct|right|best)\s+)?{NOUN}\b[\"'*_]{{0,3}}{_ABOUT}\s*"
    rf"(?:(?:is|are|was|would\s+be|should\s+be|must\s+be|will\s+be)\b\s*:?|:|=|->)[\"'*_]{{0,3}}\s*:?"
    r"|(?P<final2>最终)?答案\s*(?:应该|应)?[是为选]?\s*[:：]?",
    re.IGNORECASE,
)
_AFFIRMED = (
    r"(?:the\s+|my\s+|our\s+|an?\s+)?(?:(?:only|final|most|best|one|very)\s+){0,2}(?:correct|right|true|"
    r"accurate|appropriate|suitable|best|answer|choice|option|solution|it|one|match|fit|response)"
    rf"(?:\s+(?:{NOUN}|one|match|fit|statement|description))?"
    r"(?:\s+(?:here|to (?:the|this) question|for (?:the|this) question|in this case|for this))?"
)
# What may stand behind an answer: "is correct", "is the right answer", "fits best".
AFFIRMS = re.compile(
    rf"\s*(?:(?:is|are|was|must be|would be|should be|seems(?: to be)?|appears(?: to be)?|looks)\s+"
    rf"{_ADVERB}{_AFFIRMED}|(?:fits|matches|works)(?:\s+(?:best|here|well|perfectly))?|"
    r",?\s*(?:i think|i believe|i guess|most likely|probably|definitely)|选?项|"
    r"(?:选?项)?\s*(?:是)?(?:正确|对)(?:的|答案|选项|的答案|的选项)?)\s*(?=[.,;:!?)。-]|$)",
    re.IGNORECASE,
)
# What takes an answer back after it has been said: "B. That is wrong", "left, just kidding".
RETRACTS = re.compile(
    r"\b(?:wrong|incorrect|false|untrue|invalid|impossible|unlikely|kidding|joking|wait,? no|"
    r"no,? wait|scratch that|on second thought|"
    r"(?:rul(?:e|es|ed)|crossed) (?:\w+ )?out|eliminated|excluded|rejected|discarded|dismissed|"
    r"denied|does(?:n't| not) (?:fit|match|hold|work|apply|answer))\b"
    r"|(?:\b(?:not|never|neither|hardly|cannot)|n't) (?:be )?(?:the |an? )?(?:only )?"
    r"(?:correct|right|true|it|answer|option|one|choice|possible|likely|sure|fit|match|valid|"
    r"accurate|supported|really)\b(?!\s+(?:of|side|behind|next|in|on|at|under|above|below)\b)"
    r"|(?:\b(?:is|are|was) not|n't)\s*(?:[.,;!?]|$)|不(?:是|对|正确)|错误|排除",
    re.IGNORECASE,
)
# What follows from what a sentence has said: "It is dark, so the answer is B".
HENCE = re.compile(
    r"[,;]\s*(?:and\s+)?(?:so|therefore|thus|hence)\b,?\s*|,?(?:所以|因此|故)[,:]?", re.IGNORECASE
)
_SENTENCE = re.compile(
    r"(?<=\w\w)[.!?]+[*_\"')\]]{0,3}\s+|(?<=[a-z] [A-Z])[.!?]\s+(?=[A-Z])"
    r"|(?<=[)\]}$%°\"'*])[.!?]+\s+|[。！？]+\s*|\n\s*"
)
# A sentence that no longer answers: a question to the reader, an offer.
_CLOSING = re.compile(
    r"(?:let me know|i hope|hope (?:this|that)|feel free|please|if you (?:have|need)|do you|"
    r"would you|is there anything|thank)\b.*|.*\?\s*",
    re.IGNORECASE | re.DOTALL,
)
_EXPLAINS = re.compile(
    r"(?:(?:this|that|it) is (?:because|since|due)|(?:the )?reason (?:for this )?is|because)\b",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"(?:so|thus|therefore|hence|consequently|accordingly|overall|finally|in conclusion|"
    r"to conclude|in summary|as a result)\b|所以|因此|综上|故",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r"\b(?:that|which|who|whose|where|when)\b|\bnot (?=\w+ing\b)", re.IGNORECASE)
_ITSELF = re.compile(
    rf"\b(?:{NOUN}|one|it|this|true|case|possible|way)\s+(?:that|which|who|whose|where|"
    r"not)\b|\b(?:true|correct|right|it|this|answer)\s*$",
    re.IGNORECASE,
)


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text, without empty ones."""
    return [part for part in (part.strip() for part in _SENTENCE.split(text)) if part]


def concludes(sentence: str) -> bool:
    """Whether a sentence says what follows from the others: "Therefore, ..."."""
    return bool(_CONCLUDES.match(sentence))


def explains(sentence: str) -> bool:
    """Whether a sentence gives the reason for the one before it: "This is because ..."."""
    return bool(_EXPLAINS.match(sentence))


def closing(sentence: str) -> bool:
    """Whether a sentence takes leave of the reader: "Do you have other questions?"."""
    return bool(_CLOSING.fullmatch(sentence))


def core(text: str) -> tuple[str, str]:
    """A sentence without the reason that it gives, behind its main clause or before it, and that
    reason."""
    first = _BECAUSE.match(text)
    if first:
        comma = _COMMA.search(text)
        if not comma:
            return text, ""
        main, reason = core(text[comma.end() :])
        return main, f"{text[: comma.start()]} {reason}"
    found = REASON.search(text)
    return (text[: found.start()], text[found.end() :]) if found else (text, "")


def negated(text: str, subject: str = "") -> bool:
    """Whether a sentence takes back what it names. `subject` is what stands before its last "is":
    there a relative clause may say what something is not ("The shape that can not be folded is"),
    unless it speaks of the answer itself ("The option that is not right is")."""
    rest = text[len(subject) :]
    if NEGATIVE.search(rest):
        return True
    first = NEGATIVE.search(subject)
    if not first:
        return False
    relative = _RELATIVE.search(subject)
    return not relative or first.start() < relative.start() or bool(_ITSELF.search(subject))

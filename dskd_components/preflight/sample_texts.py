"""Texts for pairs that come without any: prose, digits, code, other scripts, odd spaces."""

from typing import Final

SAMPLE_TEXTS: Final = (
    "A small model can learn a great deal from a large one, provided that both read the same text. Where their "
    "tokenizers cut it in different places, somebody has to say which pieces belong together.",
    "In 1969 the crew flew 384,400 km; the return took 60 hours, 37 minutes. That is 3.14159 times as long as planned.",
    "def mean(values):\n    if not values:\n        return 0.0\n    return sum(values) / len(values)\n",
    "Der Zug fährt über die Brücke, während die Kinder draußen spielen. « Ça va ? » demanda-t-elle, étonnée.",
    "东京的春天很短，但是很美。東京の春は短い。Москва не сразу строилась.",
    "Thanks so much!!! 🎉 See you at the café – bring  two  friends, won't you?",
)

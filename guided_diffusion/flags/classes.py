"""The classes of a mask beside the background, as --classes names them."""

from collections.abc import Sequence
from dataclasses import dataclass

FROM_FILES = "file"  # instead of levels: the class is read from files of its own
FORM = "must be names such as disc,cup, or names with levels such as disc=1+2,cup=2"
RESERVED = ("background", "ignore")
UNNAMED = ",=+/\\"  # characters that names do not contain
MOST = 255  # classes, and the largest value of a mask


@dataclass(frozen=True)
class Classes:
    """K classes beside the background.

    names   empty: one class, without a name, as in the paper
    levels  of each class in a label; empty: from files of its own, label0_NAME.png
    plain   --classes gives names only, so that the levels are 1 to K or, if the labels have K + 1 others, those in
            ascending order
    """

    names: tuple[str, ...] = ()
    levels: tuple[tuple[int, ...], ...] = ()
    plain: bool = True

    @property
    def count(self) -> int:
        """K."""
        return len(self.names) or 1

    @property
    def several(self) -> bool:
        """Whether masks have an axis of classes: [K, H, W] instead of [H, W]."""
        return len(self.names) > 1

    @property
    def exclusive(self) -> bool:
        """Whether a pixel has at most one class. Otherwise they are regions, which may overlap."""
        return all(len(levels) == 1 for levels in self.levels) and len(set(self.levels)) == len(self.levels)

    @property
    def from_files(self) -> bool:
        """Whether each class has label files of its own."""
        return bool(self.names) and not any(self.levels)

    @property
    def values(self) -> tuple[int, ...]:
        """The value of each class in the masks written: 1 to K.

        Exclusive classes with these levels in another order have their levels, and regions the first of theirs, if that
        is not 0 and fits into 8 bits.
        """
        numbers = tuple(range(1, self.count + 1))
        if not self.names or self.from_files:
            return numbers
        first = tuple(levels[0] for levels in self.levels)
        fits = set(first) == set(numbers) if self.exclusive else min(first) > 0 and max(first) <= MOST
        return first if fits else numbers

    @property
    def written(self) -> tuple[tuple[int, ...], ...]:
        """The values that mean each class in the masks written: of a region, also those of regions within it."""
        if self.exclusive or self.from_files:
            return tuple((value,) for value in self.values)
        painted = [(levels[0], value) for levels, value in zip(self.levels, self.values, strict=True)]
        return tuple(tuple(value for level, value in painted if level in levels) for levels in self.levels)

    def same_masks(self, other: "Classes") -> bool:
        """Whether masks of both mean the same, whatever the levels of their labels; one class may have no name."""
        if not self.several and not other.several:
            return not self.names or not other.names or self.names == other.names
        return self.names == other.names and self.exclusive == other.exclusive

    @property
    def kind(self) -> str:
        """In words: "the classes disc, cup", or "one class"."""
        if not self.several:
            return "one class"
        return f"the {'classes' if self.exclusive else 'regions'} {', '.join(self.names)}"


def parse_classes(entries: Sequence[str]) -> Classes:
    """The classes of --classes: names, or NAME=LEVEL+LEVEL, or NAME=file. ValueError: the problem."""
    names = tuple(entry.split("=", 1)[0].strip() for entry in entries)
    texts = [entry.split("=", 1)[1] if "=" in entry else None for entry in entries]
    if wrong := [name for name in names if not name or name.lower() in RESERVED or set(name) & set(UNNAMED)]:
        raise ValueError(f"{wrong[0]!r} cannot be the name of a class; {FORM}")
    if len(set(names)) < len(names):
        raise ValueError("must name each class only once")
    if len(names) > MOST:
        raise ValueError(f"must be at most {MOST} classes")
    given = [text for text in texts if text is not None]
    if not given:
        return Classes(names, tuple((k + 1,) for k in range(len(names))))
    if len(given) < len(texts) or (FROM_FILES in given and set(given) != {FROM_FILES}):
        raise ValueError("must give levels to all classes or to none")
    if FROM_FILES in given:
        return Classes(names, ((),) * len(names), plain=False)
    levels = tuple(_levels(text) for text in given)
    classes = Classes(names, levels, plain=False)
    if len(set(map(frozenset, levels))) < len(levels) or len(set(classes.values)) < len(levels):
        raise ValueError("must give each class levels of its own, the first of which no other class has first")
    return classes


def _levels(text: str) -> tuple[int, ...]:
    parts = text.split("+")
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise ValueError(FORM)
    return tuple(map(int, parts))


def checked_classes(entries: Sequence[str]) -> str | None:
    """A `Flag.check` for --classes."""
    try:
        parse_classes(entries)
    except ValueError as error:
        return str(error)
    return None


def show_classes(classes: Classes) -> tuple[str, ...]:
    """The value of --classes that means these classes."""
    if classes.plain:
        return classes.names
    texts = ["+".join(map(str, levels)) or FROM_FILES for levels in classes.levels]
    return tuple(f"{name}={text}" for name, text in zip(classes.names, texts, strict=True))

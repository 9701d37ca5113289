"""What the parts of a recipe are made of: types that read text too, and sections that check values."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from ..errors import UsageError
from .messages import explain


def _refuse(expected: str) -> PydanticCustomError:
    return PydanticCustomError("expected", "{expected}", {"expected": expected})


def _whole(value: Any) -> int:
    try:
        if not isinstance(value, bool) and float(value) == int(float(value)):
            return int(float(value))
    except (TypeError, ValueError, OverflowError):
        pass
    raise _refuse("a whole number")


def _number(value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise _refuse("a number")


def _count_or_share(value: Any) -> int | float:
    number = _number(value)
    if 0 <= number < 1 or (number.is_integer() and number > 0):
        return int(number) if number.is_integer() else number
    raise _refuse("a whole number or a share below 1")


def _flag(value: Any) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise _refuse("true or false")
    return str(value).lower() == "true"


def _text(value: Any) -> str:
    try:
        if isinstance(value, str) and value.encode() is not None:  # what UTF-8 cannot hold cannot be written
            return value
    except UnicodeEncodeError:
        pass
    raise _refuse("text in UTF-8")


def _numbers(value: Any) -> tuple[float, ...]:
    items = value.strip("[]() ").split(",") if isinstance(value, str) else value
    try:
        return tuple(float(item) for item in items if item != "")
    except (TypeError, ValueError):
        raise _refuse("a list of numbers") from None


def _optional(value: Any) -> Any:
    return None if value in ("none", "null", "") else value


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
CountOrShare = Annotated[int | float, BeforeValidator(_count_or_share)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Text = Annotated[str, BeforeValidator(_text)]
OptionalText = Annotated[Text | None, BeforeValidator(_optional)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Numbers = BeforeValidator(_numbers)


class Section(BaseModel):
    """A recipe or a part of one; whatever does not fit is refused in one line.

    Raises:
        UsageError: a key is unknown, or a value has the wrong type or is out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    _prefix: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError(explain(error, type(self), self._prefix)) from None

"""``python -m hf_vitstudy`` is the command line, so that ``accelerate launch -m hf_vitstudy`` works."""

from .cli import main


main()

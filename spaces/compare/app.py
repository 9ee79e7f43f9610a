"""The Space: the comparison of vision checkpoints, served by Gradio. `vitstudy space` serves the same."""

from pathlib import Path

from hf_vitstudy.space import folder_app


if __name__ == "__main__":
    folder_app(Path(__file__).parent / "data").launch()

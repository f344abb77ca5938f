"Package metadata for pip, read from settings.ini, its only home."
from configparser import ConfigParser
from pathlib import Path
from shutil import copytree, copyfile
from setuptools import setup, find_packages
from setuptools.command.build_py import build_py

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(here/"settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
extras = {k.removesuffix("_requirements"): v.split() for k, v in cfg.items() if k.endswith("_requirements")}
readme = here/"README.md"


class Build(build_py):
    "What `llmforge init` copies and `llmforge run` falls back on comes with the wheel, in llmforge/project/."

    def run(self):
        super().run()
        if self.editable_mode:  # there the checkout is at hand
            return
        project = Path(self.build_lib)/"llmforge"/"project"
        copytree(here/"configs", project/"configs", dirs_exist_ok=True)
        for notebook in [*(here/"nbs").glob("run_*.ipynb"), *(here/"nbs"/"tutorials").glob("*.ipynb")]:
            target = project/notebook.relative_to(here)
            target.parent.mkdir(parents=True, exist_ok=True)
            copyfile(notebook, target)


setup(
    cmdclass={"build_py": Build},
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], keywords=cfg["keywords"],
    author=cfg["author"], url=f"https://github.com/{cfg['repository']}", license=cfg["license"], python_requires=f">={cfg['min_python']}",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "", long_description_content_type="text/markdown",
    packages=find_packages(include=["llmforge*"]), package_data={"llmforge": ["facts/*.csv", "facts/*.yaml", "cards/*.json", "assets/*", "assets/templates/*", "written/*", "written/*/*", "py.typed"]},
    install_requires=cfg["requirements"].split(), extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split("\n"), "nbdev": ["llmforge=llmforge._modidx:d"],
        "papermill.engine": ["llmforge=llmforge.launching:QuietEngine"],
        "papermill.io": ["llmforge://=llmforge.launching:handler"],  # completes the papermill command, see nbs/70_launching.ipynb
    },
)

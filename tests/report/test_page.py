"""The page in a browser: layers are picked by mouse, keyboard and strategy, and its commands do what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import chromium
from tests.support.builders import BLOCK_PARTS, HOSTILE, MODELS, ROOT, huggingface, llama_names, write_gguf
from tests.support.command_line import ours

pytest.importorskip("jinja2", reason="needs the extra `report`: jinja2")
pytest.importorskip("selenium", reason="needs the extra `browser`: selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = chromium()
    yield driver
    driver.quit()


ABOUT = 8192  # bytes by which the page may be wrong about a selection of no strategy
SHOWN = "const shown = panels.findIndex(({ section }) => !section.hidden);"


class Opened:
    """A page that a person looks at."""

    def __init__(self, browser: Any, source: str, folder: Path, *more: str) -> None:
        self.browser, self.folder = browser, folder
        done = ours(
            ["report", source, "-o", "page.html", "--overwrite", *(more or ("--metric", "magnitude-l1"))], folder
        )
        assert (done.returncode, done.stderr) == (0, "")
        browser.get_log("browser")
        browser.get((folder / "page.html").as_uri())

    @property
    def panel(self) -> Any:
        return next(each for each in self.browser.find_elements(By.CLASS_NAME, "stack") if each.is_displayed())

    def find(self, selector: str) -> Any:
        return self.panel.find_element(By.CSS_SELECTOR, selector)

    def text(self, name: str) -> str:
        return self.find(f"[data-{name}]").get_attribute("textContent")

    def click(self, *layers: int) -> None:
        for layer in layers:
            self.find(f'[data-layer="{layer}"]').click()

    def shift_click(self, layer: int) -> None:
        row = self.find(f'[data-layer="{layer}"]')
        ActionChains(self.browser).key_down(Keys.SHIFT).click(row).key_up(Keys.SHIFT).perform()

    def set(self, name: str, value: str) -> None:
        """Choose or type into the chooser, as a person does."""
        field = self.find(f'[name="{name}"]')
        if field.tag_name == "select":
            self.browser.execute_script(
                "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', { bubbles: true }))",
                field, value,
            )  # fmt: skip
            return
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value or Keys.DELETE)

    def press(self, *keys: str) -> None:
        self.browser.switch_to.active_element.send_keys(*keys)

    def command(self, kind: str = "prune") -> str:
        return self.find(f'[data-command="{kind}"]').get_attribute("textContent")

    @property
    def dropped(self) -> list[int]:
        gone = self.panel.find_elements(By.CSS_SELECTOR, '.layer[aria-selected="true"]')
        return [int(row.get_attribute("data-layer")) for row in gone]

    def run(self, command: str) -> str:
        """What a shell prints for a command of the page."""
        program = f'rewriter() {{ {shlex.quote(sys.executable)} -m rewriter "$@"; }}\n{command}\n'
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
        done = subprocess.run(
            ["bash", "-c", program], capture_output=True, text=True, cwd=self.folder, env=environment, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def planned(self) -> dict[str, Any]:
        return json.loads(self.run(f"{self.command('plan')} --json"))

    def check_said(self) -> None:
        """What the page says is what the plan says; what the command writes is what it should be."""
        plan = self.planned()
        shown = self.exact()
        assert plan["layers"]["dropped"] == self.dropped
        for name in ("bytes", "parameters", "tensors"):
            assert shown[name] == plan[name]["after"]
        printed = self.run(self.command("plan"))
        assert self.text("bytes") == re.search(r"bytes .*-> (.*)", printed)[1]
        assert self.text("parameters").split(" of ")[0] == re.search(r"weights .*-> (.*)", printed)[1]
        assert abs(shown["files"] - plan["disk_needed"]) <= (0 if shown["planned"] else ABOUT)
        assert self.text("files").startswith("about ") != shown["planned"]
        self.run(self.command())
        assert self.run(self.command("verify")).startswith("ok: ")

    def exact(self) -> dict[str, Any]:
        """The sums behind what is shown."""
        return self.browser.execute_script(
            SHOWN + "return sizesWithout(panels[shown].stack, panels[shown].dropped(), panels[shown].dropsMtp)"
        )

    def complaints(self) -> list[Any]:
        return self.browser.get_log("browser")


def link(folder: Path, source: Path, name: str) -> str:
    """A model under another name, in the folder of the page."""
    (folder / name).symlink_to(source)
    return name


SOURCES = {
    "tiny-llama-12L": 'it\'s a "model" $(touch owned) & more',
    "tiny-llama-12L-Q4_K_M.gguf": "-q4 `touch owned`;\u202e$HOME.gguf",
}


@pytest.mark.parametrize("model", SOURCES)
def test_what_is_clicked_is_what_the_command_does(browser, tmp_path, model):
    name = link(tmp_path, MODELS / model, SOURCES[model])
    page = Opened(browser, f"./{name}", tmp_path)
    page.click(3, 7)
    page.shift_click(9)
    page.click(11, 4, 4)
    assert page.dropped == [3, 7, 8, 9, 11]
    assert page.text("dropped") == "3,7-9,11"
    assert page.text("verdict") == "These layers can go together."
    page.check_said()
    assert not (tmp_path / "owned").exists()
    assert not page.complaints()


def test_a_range_is_kept_again(browser, tmp_path):
    page = Opened(browser, str(MODELS / "tiny-llama-12L-Q8_0.gguf"), tmp_path)
    page.click(2)
    page.shift_click(9)
    assert page.dropped == list(range(2, 10))
    page.click(4)
    page.shift_click(6)
    assert page.dropped == [2, 3, 7, 8, 9]
    page.find("[data-reset]").click()
    assert page.dropped == []
    assert page.text("verdict") == "Nothing is dropped yet."
    assert not page.find('[data-copy="prune"]').is_enabled()


@pytest.mark.parametrize(
    ("strategy", "field", "value", "options"),
    [
        ("magnitude-l1", "", "", "--strategy magnitude-l1 --ratio 0.25"),
        ("magnitude-l1", "count", "5", "--strategy magnitude-l1 --count 5"),
        ("magnitude-l1", "fit", "1.7", "--strategy magnitude-l1 --target-size 1.7MB"),
        ("middle", "count", "4", "--strategy middle --count 4"),
        ("first-n", "count", "8", "--strategy first-n --count 4"),
        ("deepest-but-last", "fit", "1.5", "--strategy deepest-but-last --target-size 1.5MB"),
        ("top", "fit", "900", "--keep 0-11"),
    ],
)
def test_a_strategy_takes_the_layers_that_the_program_takes(browser, tmp_path, strategy, field, value, options):
    source = str(MODELS / "tiny-llama-12L-Q4_K_M.gguf")
    page = Opened(browser, source, tmp_path)
    page.set("strategy", strategy)
    if field:
        page.set(field, value)
    theirs = json.loads(page.run(f"rewriter plan {shlex.quote(source)} {options} --json"))
    assert page.dropped == theirs["layers"]["dropped"]
    assert page.find("[data-files]").get_attribute("title") == f"{theirs['disk_needed']} bytes"
    if page.dropped:
        assert " --drop " in page.command()
        page.check_said()


def test_every_number_of_layers_is_offered_with_its_size(browser, tmp_path):
    page = Opened(browser, str(MODELS / "tiny-llama-12L-Q4_K_M.gguf"), tmp_path)
    assert not page.find('[name="count"]').is_enabled()
    page.set("strategy", "even-alternate")
    offered = [each.text for each in page.panel.find_elements(By.CSS_SELECTOR, '[name="count"] option')]
    assert [text.partition(" ")[0] for text in offered] == ["0", "1", "2", "3", "4", "5", "6"]
    assert offered[3].startswith("3 (25 %): ")
    page.set("count", "6")
    assert offered[6].endswith(f": {page.text('files')}")
    page.click(0)
    assert page.find('[name="strategy"]').get_attribute("value") == ""
    assert not page.find('[name="count"]').is_enabled()


def test_a_size_is_met_to_the_byte(browser, tmp_path):
    source = str(MODELS / "tiny-llama-12L-Q4_K_M.gguf")
    page = Opened(browser, source, tmp_path)
    needed = json.loads(page.run(f"rewriter plan {shlex.quote(source)} --strategy top --count 3 --json"))["disk_needed"]
    page.set("strategy", "top")
    page.set("fit", f"{needed / 1e6:.6f}")
    assert page.dropped == [9, 10, 11]
    page.set("fit", f"{(needed - 1) / 1e6:.6f}")
    assert page.dropped == [8, 9, 10, 11]
    page.set("fit", "0.001")
    assert page.text("about") == "No selection of this strategy is so small."
    assert page.dropped == []


def test_all_of_it_works_by_keyboard(browser, tmp_path):
    page = Opened(browser, str(MODELS / "tiny-llama-12L-Q4_K_M.gguf"), tmp_path)
    for _ in range(20):
        page.press(Keys.TAB)
        if browser.switch_to.active_element.get_attribute("role") == "option":
            break
    focused = browser.switch_to.active_element
    assert focused.get_attribute("data-layer") == "0"
    assert focused.value_of_css_property("outline-style") == "solid"
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.SPACE)
    page.press(Keys.SHIFT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    page.press(Keys.END)
    page.press(Keys.SPACE)
    page.press(Keys.HOME)
    assert page.dropped == [2, 3, 4, 11]
    assert browser.switch_to.active_element.get_attribute("aria-label").endswith(", kept")
    page.press(Keys.TAB)
    while browser.switch_to.active_element.tag_name != "button":
        page.press(Keys.TAB)
    page.press(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("data-copy") == "prune"
    page.check_said()


def test_the_command_is_copied(browser, tmp_path):
    page = Opened(browser, str(MODELS / "tiny-llama-12L-Q4_K_M.gguf"), tmp_path)
    page.click(5)
    page.find('[data-copy="prune"]').click()
    assert page.find('[data-copy="prune"]').text == "Copied"
    browser.execute_script("document.body.append(document.createElement('textarea'))")
    field = browser.find_element(By.TAG_NAME, "textarea")
    field.send_keys(Keys.CONTROL, "v")
    assert field.get_attribute("value") == page.command()


def t5(folder: Path) -> str:
    parts = ("layer.0.SelfAttention.q.weight", "layer.1.DenseReluDense.wo.weight")
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    names = ["shared.weight", *(f"{side}.{bias}" for side in ("encoder", "decoder"))]
    names += [f"encoder.block.{layer}.{part}" for layer in range(6) for part in parts]
    names += [f"decoder.block.{layer}.{part}" for layer in range(4) for part in parts]
    huggingface(folder / "t5", 6, names=names, model_type="t5", num_layers=6, num_decoder_layers=4, num_hidden_layers=6)
    return "t5"


def test_each_of_two_stacks_has_its_own_command(browser, tmp_path):
    page = Opened(browser, t5(tmp_path), tmp_path)
    page.click(0)
    assert "--stack" not in page.command()
    page.check_said()  # what the first layer stores for all stays
    first, second = browser.find_elements(By.CSS_SELECTOR, '[role="tab"]')
    first.send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element == second
    assert [tab.get_attribute("aria-selected") for tab in (first, second)] == ["false", "true"]
    assert page.dropped == []
    page.click(1, 5)
    assert page.command() == "rewriter prune t5 t5-pruned --stack encoder --drop 1,5"
    page.run("rm -r t5-pruned")
    page.check_said()


def test_a_refused_selection_offers_those_that_work(browser, tmp_path):
    """SmolLM3 as GGUF: every fourth layer has no rotary positions, and no field says which."""
    write_gguf(tmp_path / "model.gguf", 12, "smollm3")
    page = Opened(browser, "model.gguf", tmp_path)
    page.click(3)
    assert page.text("verdict").startswith("Refused: ")
    assert page.command() == "…"
    assert not page.find('[data-copy="prune"]').is_enabled()
    page.panel.find_elements(By.CLASS_NAME, "other")[0].click()
    assert page.text("verdict") == "These layers can go together."
    assert page.dropped == [11]
    page.check_said()


def test_names_are_no_markup_in_the_browser(browser, tmp_path):
    name = HOSTILE.replace("/", "_")
    write_gguf(tmp_path / f"{name}.gguf", 4, names=[f"{HOSTILE}.weight", *llama_like(4)])
    page = Opened(browser, f"{name}.gguf", tmp_path)
    page.click(1)
    page.check_said()
    assert not browser.find_elements(By.TAG_NAME, "img")
    assert not page.complaints()


def llama_like(layers: int) -> list[str]:
    return [f"blk.{layer}.{part}" for layer in range(layers) for part in BLOCK_PARTS]


def test_128_layers(browser, tmp_path):
    huggingface(tmp_path / "model", 128, names=llama_names(128))
    page = Opened(browser, "model", tmp_path)
    page.click(40)
    page.shift_click(100)
    page.set("strategy", "even-alternate")
    page.set("count", "32")
    assert len(page.dropped) == 32
    page.check_said()


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_no_width_needs_scrolling_sideways(browser, tmp_path, width):
    page = Opened(browser, t5(tmp_path), tmp_path)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.click(1)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("more", [("--no-scores",), ("--metric", "magnitude-l1")], ids=["no scores", "one"])
def test_a_layer_takes_one_line(browser, tmp_path, more):
    browser.set_window_size(1280, 900)
    page = Opened(browser, str(MODELS / "tiny-llama-12L-Q8_0.gguf"), tmp_path, *more)
    rows = page.panel.find_elements(By.CSS_SELECTOR, ".row")
    assert len(rows) == 13
    assert all(row.size["height"] < 50 for row in rows)
    for row in rows:
        tops = [each.rect["y"] + each.size["height"] / 2 for each in row.find_elements(By.XPATH, "./span")]
        assert max(tops) - min(tops) < 12


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_on_paper_it_is_black_on_white(browser, tmp_path, theme):
    page = Opened(browser, str(MODELS / "tiny-llama-12L-Q8_0.gguf"), tmp_path)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    try:
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.find(".chooser").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_dark_and_light_follow_the_system_and_the_button(browser, tmp_path):
    page = Opened(browser, str(MODELS / "tiny-llama-12L-Q4_K_M.gguf"), tmp_path)
    ground = "return getComputedStyle(document.body).backgroundColor"
    seen = []
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        seen.append(page.browser.execute_script(ground))
    browser.find_element(By.ID, "theme").click()
    assert browser.execute_script(ground) == seen[0] != seen[1]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_it_asks_no_network(browser, tmp_path):
    browser.get_log("performance")
    page = Opened(browser, str(MODELS / "tiny-llama-12L-Q4_K_M.gguf"), tmp_path)
    page.click(1, 2)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert sent
    assert {url.partition(":")[0] for url in sent} <= {"file", "data"}
    assert not page.complaints()


def test_mtp_layers_go_only_if_asked(browser, tmp_path):
    write_gguf(tmp_path / "model.gguf", 6, "glm4moe", fields={"nextn_predict_layers": 1})
    page = Opened(browser, "model.gguf", tmp_path)
    assert page.text("layers") == "5 of 5"
    page.click(2)
    assert page.command().endswith("--drop 2")
    page.check_said()
    page.find("[data-mtp]").click()
    assert page.command().endswith("--drop 2 --drop-mtp")
    assert page.exact()["bytes"] == page.planned()["bytes"]["after"]
    page.click(2)
    assert page.command().endswith("--keep 0-4 --drop-mtp")
    assert page.exact()["bytes"] == page.planned()["bytes"]["after"]

"""Runs the page's scripts outside the page: with node where it is, else in Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from tests.support.browser import chromium

_LOOP = """
const vm = require("vm");
vm.runInThisContext(require("fs").readFileSync(process.argv[1], "utf8"));
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const { code, data } = JSON.parse(line);
  let answer;
  try { answer = vm.runInThisContext(code)(data); } catch (error) { answer = { thrown: error.stack }; }
  console.log(JSON.stringify(answer));
});
"""


class Node:
    """A node that has loaded `script`."""

    def __init__(self, script: str) -> None:
        command = ["node", "-e", _LOOP, script]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, code: str, data: Any) -> Any:
        """What the function `code` returns for `data`."""
        self.process.stdin.write(json.dumps({"code": code, "data": data}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "thrown" not in answer, answer
        return answer

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


class Page:
    """The same in a browser."""

    def __init__(self, script: str) -> None:
        with open(script, encoding="utf-8") as file:
            self.source = file.read()
        self.driver = chromium()
        self.driver.get("data:text/html,<title>scripts</title>")

    def ask(self, code: str, data: Any) -> Any:
        """What the function `code` returns for `data`."""
        text = self.driver.execute_script(f"{self.source}\nreturn JSON.stringify(({code})(arguments[0]))", data)
        return json.loads(text)

    def close(self) -> None:
        self.driver.quit()


def interpreter(script: str) -> Node | Page:
    """Something that can run `script`; skips the test where there is nothing."""
    if shutil.which("node"):
        return Node(script)
    return Page(script)

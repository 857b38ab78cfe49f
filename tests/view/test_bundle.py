"""Modules become one script: each with its own names, in the order in which they are needed."""

import json
import shutil
import subprocess

import pytest

from lightning_morse.view import asset, asset_names
from lightning_morse.view.bundle import bundle


def bundled(**modules):
    texts = {f"{name}.js": text for name, text in modules.items()}
    return bundle("main.js", lambda path: texts[path])


@pytest.fixture
def node():
    path = shutil.which("node")
    if not path:
        pytest.skip("node is not installed")

    def printed(script):
        done = subprocess.run(
            [path, "-e", script], check=True, capture_output=True, text=True, timeout=60
        )
        return json.loads(done.stdout)

    return printed


def test_equal_names_in_two_modules_do_not_collide(node):
    script = bundled(
        main=(
            'import { one, two as second } from "./a.js";\n'
            'import {\n  one as other,\n  Thing,\n} from "./b.js";\n'
            "const hidden = 5;\n"
            "console.log(JSON.stringify([one, second(), other, new Thing().size, hidden]));\n"
        ),
        a=(
            "const hidden = 1;\nexport const one = hidden;\n"
            "export function two() {\n  return 2;\n}\n"
        ),
        b=(
            'import { one } from "./a.js";\n'
            "const hidden = 3;\nconst three = one + hidden;\n"
            "export class Thing {\n  size = hidden;\n}\n"
            "export {\n  three as one\n};\n"
        ),
    )
    assert node(script) == [1, 2, 4, 3, 5]


def test_modules_come_once_and_after_those_they_import():
    texts = {
        "main.js": 'import { b } from "./sub/b.js";\nimport { a } from "./a.js";\n',
        "sub/b.js": 'import { a } from "../a.js";\nexport const b = a;\n',
        "a.js": "export const a = 1;\n",
    }
    script = bundle("main.js", texts.__getitem__)
    places = [script.index(f"modules['{name}'] = ") for name in ("a.js", "sub/b.js", "main.js")]
    assert places == sorted(places)
    assert script.count("export") == script.count("import") == 0
    assert script.count("modules['a.js'] = ") == 1


def test_a_cycle_is_refused():
    with pytest.raises(ValueError, match=r"in a cycle: main\.js -> a\.js -> main\.js"):
        bundled(
            main='import { a } from "./a.js";\nexport const m = 1;\n',
            a='import { m } from "./main.js";\nexport const a = m;\n',
        )


def test_a_name_that_is_not_exported_is_refused():
    with pytest.raises(ValueError, match=r"main\.js imports b, c, not exported by a\.js"):
        bundled(
            main='import { a, b, c } from "./a.js";\n',
            a="export const a = 1;\nconst b = 2;\n",
        )


@pytest.mark.parametrize(
    "line",
    [
        "export default 1;",
        'import a from "./a.js";',
        'import * as a from "./a.js";',
        'import "./a.js";',
        'export { a } from "./a.js";',
        'export * from "./a.js";',
        "export let a = 1;",
        'const a = await import("./a.js");',
        "const a = import.meta.url;",
        'import { a } from "./a.js"',
        'import { a } from "a";',
        '  import { a } from "./a.js";',
    ],
)
def test_other_forms_are_refused(line):
    with pytest.raises(ValueError, match="expected imports and exports by name") as refused:
        bundled(main=f"const x = 1;\n{line}\n", a="export const a = 1;\n")
    assert line.strip()[:10] in str(refused.value)


def test_every_module_of_the_front_end_is_used():
    used = set()

    def read(path):
        used.add(path)
        return asset(path)

    for entry in ("page.js", "tab.js", "index.js"):
        bundle(entry, read)
    assert used == {name for name in asset_names() if name.endswith(".js")}

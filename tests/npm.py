"""Check the JavaScript client as its users get it: ``python -m tests.npm``.

npm installs into a copy of the tree, without a lock file. Types, tests, the build, the size and the form of the
package are checked there. Its tarball is then installed into an empty project of Vite, React and TypeScript. A page
without a build step imports it in Chromium. What needs a program or a registry that is missing does not run, and the
reason is printed. With ``CI=true`` the command then ends with 1.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.integration.demo_support import BROWSERS, running_browser
from tests.support.process import ChildProcess, free_port
from tests.support.waiting import eventually

PROJECT = Path(__file__).parents[1]
COPIED = ("clients/javascript", "protocol")
NOT_COPIED = shutil.ignore_patterns("node_modules", "dist", "__pycache__", "package-lock.json")
SCRIPTS = ("types", "test", "build", "size", "check-package")
"""Scripts of package.json, in their order."""
INSTALL = ("install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
UNREACHABLE = (
    "EAI_AGAIN",
    "ENOTFOUND",
    "ECONNREFUSED",
    "ECONNRESET",
    "ENETUNREACH",
    "ETIMEDOUT",
    "EHOSTUNREACH",
)
"""Codes of npm for a registry that does not answer."""
ASK_ONCE = ("--fetch-retries=0", "--fetch-timeout=20000", "--loglevel=error")
STEP_LIMIT_S = 600.0
NAME = "@fastapi-websocket-stabilizer/client"
RELEASES = {
    "@types/react": "19.3.3",
    "@types/react-dom": "19.3.0",
    "@vitejs/plugin-react": "6.3.0",
    "react": "19.3.1",
    "react-dom": "19.3.1",
    "typescript": "7.0.2",
    "vite": "8.4.0",
}
VITE_PROJECT = {
    "index.html": '<!doctype html><div id="root"></div><script type="module" src="/src/main.tsx"></script>',
    "vite.config.ts": """import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({ plugins: [react()] });
""",
    "tsconfig.json": json.dumps(
        {
            "compilerOptions": {
                "strict": True, "noEmit": True, "jsx": "react-jsx", "module": "esnext", "moduleResolution": "bundler",
                "target": "es2022", "lib": ["es2023", "dom", "dom.iterable"], "types": [],
            },
            "include": ["src"],
        }
    ),
    "src/main.tsx": f"""import {{ StabilizerError, connect }} from "{NAME}";
import {{ StabilizerProvider, usePresence, useRequest, useRoom, useStatus }} from "{NAME}/react";
import {{ useState }} from "react";
import {{ createRoot }} from "react-dom/client";

const client = connect("/ws?name=ann");

function Chat() {{
  const status = useStatus(), members: Map<string, any> = usePresence("chat");
  const [ids, setIds] = useState<number[]>([]);
  const [rename, {{ isPending }}] = useRequest("rename");
  const {{ isJoined }} = useRoom("chat", {{
    onMessage: ({{ id }}) => setIds((known) => [...known, id]),
    reload: async ({{ top }}) => console.warn(top),
    join: true,
  }});
  const warn = ({{ code }}: StabilizerError) => console.warn(code);
  const send = () => client.send("hi", {{ confirm: true }}).catch(warn);
  const text = `${{status}} ${{isJoined}} ${{ids.length}} ${{members.size}}`;
  return <button onClick={{send}} onBlur={{() => rename("x")}} disabled={{isPending}}>{{text}}</button>;
}}
const page = <StabilizerProvider value={{client}}><Chat /></StabilizerProvider>;
createRoot(document.getElementById("root")!).render(page);
""",
}  # fmt: skip
IN_BUILD = {NAME: "stabilizer.v1", f"{NAME}/react": "StabilizerProvider is missing"}
"""A text of each entry, which no build shortens."""
IN_TARBALL = frozenset(
    {"package/LICENSE", "package/README.md", "package/package.json", "package/dist/client.js"}
)
PAGE = f"""<!doctype html><title>page</title><script type="module">
import {{ connect }} from "./node_modules/{NAME}/dist/client.js";
window.seen = [];
window.client = connect("/ws?name=ann");
client.on("message", ({{ data }}) => seen.push(data));
</script>"""
APP = """from fastapi.staticfiles import StaticFiles
from tests.integration.client_app import app

app.mount("/project", StaticFiles(directory={directory!r}))
"""


class FailedError(Exception):
    """A step failed. The message is its output."""


def skipped(reason: str) -> int:
    """Print why something does not run. Return the exit code: CI must run everything."""
    print(f"not run: {reason}", flush=True)
    return int(os.environ.get("CI") == "true")


def run(name: str, command: Sequence[str], directory: Path) -> str:
    """Run a step, print its time, and return its output."""
    began_s = time.monotonic()
    try:
        ended = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, check=False, timeout=STEP_LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"{name}: no end in {STEP_LIMIT_S:g} s: {' '.join(command)}") from error
    output = ended.stdout + ended.stderr
    if ended.returncode:
        raise FailedError(f"{name}: {' '.join(command)} ended with {ended.returncode}\n{output}")
    print(f"{name}: passed in {time.monotonic() - began_s:.1f} s", flush=True)
    return output


def write(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)


def check_package(npm: str, directory: Path) -> Path:
    """Check a copy of the package, and return its tarball."""
    for folder in COPIED:
        shutil.copytree(PROJECT / folder, directory / folder, ignore=NOT_COPIED)
    package = directory / "clients" / "javascript"
    run("registry", (npm, "view", "typescript", "version", *ASK_ONCE), package)
    run("install", (npm, *INSTALL), package)
    for script in SCRIPTS:
        output = run(script, (npm, "run", "--silent", script), package)
        if script == "size":
            print(output.strip(), flush=True)
    run("pack", (npm, "pack", "--ignore-scripts", "--silent"), package)
    (tarball,) = package.glob("*.tgz")
    check_tarball(tarball)
    return tarball


def check_tarball(tarball: Path) -> None:
    """Raise FailedError if a file that belongs to each package is missing."""
    with tarfile.open(tarball) as archive:
        if absent := IN_TARBALL.difference(archive.getnames()):
            raise FailedError(f"pack: {tarball.name} has no {', '.join(sorted(absent))}")


def check_vite_project(npm: str, tarball: Path, directory: Path) -> None:
    """Build an empty project that has the package."""
    write(directory, {**VITE_PROJECT, "package.json": '{"private": true, "type": "module"}'})
    releases = [f"{name}@{release}" for name, release in RELEASES.items()]
    run("install into a Vite project", (npm, *INSTALL, str(tarball), *releases), directory)
    run("types of the Vite project", (npm, "exec", "--", "tsc"), directory)
    run("build of the Vite project", (npm, "exec", "--", "vite", "build", "--logLevel", "warn"), directory)
    scripts = list(directory.glob("dist/assets/*.js"))
    for entry, text in IN_BUILD.items():
        if not any(text in script.read_text() for script in scripts):
            raise FailedError(f"build of the Vite project: {entry} is in none of {scripts}")


async def check_page(directory: Path) -> None:
    """Let a page import the installed package without a build step, connect, and get a message back."""
    write(directory, {"page.html": PAGE, "page_app.py": APP.format(directory=str(directory))})
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "page_app:app",
        "--port",
        str(port),
        "--app-dir",
        str(directory),
    ]
    environment = {"PYTHONPATH": os.pathsep.join(["src", "."])}
    with ChildProcess(command, environment=environment, directory=PROJECT) as process:
        await eventually(lambda: "Uvicorn running on" in process.output, what="the application starts")
        async with running_browser() as browser:
            page = await browser.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            await page.goto(f"http://127.0.0.1:{port}/project/page.html")
            try:
                await page.wait_for_function("window.client?.status === 'live'")
                await page.evaluate("client.send({text: 'hi'}, {confirm: true})")
                await page.wait_for_function("seen.length === 1")
            except Exception as error:
                raise FailedError(f"page: {error}\n{errors}\n{process.output}") from error


def main() -> int:
    npm = shutil.which("npm")
    if npm is None:
        return skipped("npm is not on PATH (apt-get install npm)")
    with TemporaryDirectory(prefix="fws-npm-") as name:
        package, project = Path(name, "package"), Path(name, "project")
        package.mkdir()
        project.mkdir()
        try:
            tarball = check_package(npm, package)
            check_vite_project(npm, tarball, project)
            if any(map(shutil.which, BROWSERS)):
                asyncio.run(check_page(project))
                print("page: passed")
            elif skipped("the page, since no Chromium is on PATH (apt-get install chromium)"):
                return 1
        except FailedError as error:
            code = next((code for code in UNREACHABLE if code in error.args[0]), None)
            if code is not None and error.args[0].startswith("registry"):
                return skipped(f"the registry of npm does not answer ({code})")
            print(error)
            return 1
    print("the package, its build and both projects are fine")
    return 0


if __name__ == "__main__":
    sys.exit(main())

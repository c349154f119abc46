"""Writes the texts that every Python ships into a folder: its language reference, the docstrings of its modules, its text files."""
import ast
import pathlib
import sys
import sysconfig

import pydoc_data.topics


def texts():
    for name, text in pydoc_data.topics.topics.items():
        yield f"reference/{name}.txt", text
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    for module in sorted(library.glob("*.py")):
        text = ast.get_docstring(ast.parse(module.read_bytes())) or ""
        if len(text) > 300:
            yield f"modules/{module.stem}.txt", text
    for file in sorted([*library.glob("*.txt"), *library.glob("idlelib/*.txt")]):
        yield f"files/{file.name}", file.read_text("utf-8", "replace")


def main():
    target, count = pathlib.Path(sys.argv[1]), 0
    for name, text in texts():
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        count += 1
    print(f"{count} texts in {target}")


if __name__ == "__main__":
    main()

"""Write every drawing, and the generated sections of ``docs/architecture.md``."""

from __future__ import annotations

from tests.drawings.files import DOCS, wanted_files


def main() -> None:
    """Write each file that has changed, and remove the drawings of tables that no longer exist."""
    wanted = wanted_files()
    for path in set((DOCS / "drawings").glob("*.svg")) - wanted.keys():
        path.unlink()
        print(f"removed {path.name}")
    for path, text in wanted.items():
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"wrote {path.name}")


if __name__ == "__main__":
    main()

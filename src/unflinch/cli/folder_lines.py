"""What `inspect` found, as lines for a reader."""

from __future__ import annotations

from unflinch.release.inspect import FolderFacts


def folder_lines(facts: FolderFacts, fits: str | None) -> list[tuple[str, str]]:
    """Return names and values for a reader."""
    origin = facts.provenance
    lines = [("kind", facts.kind), ("base model", facts.base or "not named"), ("values", f"{facts.parameters:,}")]
    if facts.touches:
        touched = ", ".join(f"{count} x {name}" for name, count in facts.touches.items())
        lines.append(("changes", f"{sum(facts.touches.values())} modules ({touched})"))
        lines.append(("rank", ", ".join(map(str, facts.ranks))))
    if origin is None:
        lines.append(("made by", "unknown: no provenance.json"))
    else:
        strength = f", at strength {origin.strength:g}" if origin.strength != 1 else ""
        lines.append(("made by", f"unflinch {origin.unflinch}, {origin.created[:10]}{strength}"))
        held = "passed" if origin.passed else "FAILED" if origin.verdict else "never measured"
        lines.append(("verdict", held))
        lines.append(
            ("weights", f"CHANGED since: {', '.join(facts.changed)}" if facts.changed else "as they were measured")
        )
    lines.append(("signed", "yes; `unflinch verify` checks it" if facts.signed else "no"))
    lines += [("fits", fits)] if fits else []
    lines += [("DANGER", danger) for danger in facts.dangers]
    return lines

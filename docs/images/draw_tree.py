"""Draw how workers share the summation tree: `python docs/images/draw_tree.py` writes tree.svg beside this file."""

from pathlib import Path

from distmc.parallel.tree import ReductionPlan

NUM_BLOCKS = 8
WORKERS = (1, 2, 3, 4)
COLOURS = ("#d98c3f", "#5b9a5b", "#9a6fb0", "#4a6fa5")
LEFT, SPACING, TOP, LEVEL = 150, 80, 40, 52


def block_x(index: float) -> float:
    """Return the middle of a block, or between blocks, in pixels."""
    return LEFT + SPACING * (index + 0.5)


def tree() -> list[str]:
    """Return the tree: a plus where two neighbouring subtrees are added."""
    lines, nodes = [], []
    depth = NUM_BLOCKS.bit_length() - 1
    for level in range(depth + 1):
        width, y = 1 << level, TOP + LEVEL * (depth - level)
        for index in range(NUM_BLOCKS >> level):
            x = block_x(index * width + (width - 1) / 2)
            if level < depth:
                parent = block_x((index // 2) * 2 * width + (2 * width - 1) / 2)
                lines.append(f'<line x1="{x:g}" y1="{y}" x2="{parent:g}" y2="{y - LEVEL}" stroke="#666"/>')
            text = str(index) if level == 0 else "+"
            nodes.append(f'<circle cx="{x:g}" cy="{y}" r="14" fill="#fff" stroke="#444"/>')
            nodes.append(f'<text x="{x:g}" y="{y + 5}" text-anchor="middle">{text}</text>')
    return lines + nodes


def strips() -> list[str]:
    """Return one strip for each number of workers, coloured by who holds which block."""
    parts = []
    top = TOP + LEVEL * (NUM_BLOCKS.bit_length() - 1) + 36
    for row, num_workers in enumerate(WORKERS):
        plan = ReductionPlan(num_blocks=NUM_BLOCKS, num_workers=num_workers)
        y = top + 34 * row
        plural = "s" if num_workers > 1 else ""
        parts.append(f'<text x="{LEFT - 20}" y="{y + 16}" text-anchor="end">{num_workers} worker{plural}</text>')
        for rank in range(num_workers):
            start, stop = plan.block_range(rank)
            x, width = LEFT + SPACING * start + 3, SPACING * (stop - start) - 6
            parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="22" rx="4" fill="{COLOURS[rank]}"/>')
            parts.append(f'<text x="{x + width / 2:g}" y="{y + 16}" text-anchor="middle" fill="#fff">{rank}</text>')
        hops = f"{plan.num_hops} hop{'s' if plan.num_hops != 1 else ''}"
        parts.append(f'<text x="{LEFT + SPACING * NUM_BLOCKS + 14}" y="{y + 16}">{hops}</text>')
    return parts


def draw() -> str:
    """Return the picture as SVG."""
    width, height = LEFT + SPACING * NUM_BLOCKS + 90, TOP + LEVEL * 3 + 36 + 34 * len(WORKERS) + 16
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="Helvetica, Arial, sans-serif" font-size="14" fill="#222">'
    )
    title = "<title>One tree over eight blocks, and who holds which blocks with one to four workers</title>"
    paper = f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>'
    return "\n".join([head, title, paper, *tree(), *strips(), "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("tree.svg").write_text(draw(), encoding="utf-8")

"""What the gallery shows of a block: figures that it has assigned to a variable.

The package draws without pyplot, whose list of figures other scrapers read.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst


def scrape(_block, block_vars, gallery_conf):
    """Save the figures that are new among the variables of the example."""
    drawn = block_vars.setdefault("drawn", set())
    files = []
    for value in list(block_vars["example_globals"].values()):
        if isinstance(value, Figure) and id(value) not in drawn:
            drawn.add(id(value))
            file = next(block_vars["image_path_iterator"])
            value.savefig(file, dpi=160)
            files.append(file)
    return figure_rst(files, gallery_conf["src_dir"])

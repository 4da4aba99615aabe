"Figures of masks: nothing is cut, whatever the number of columns and the length of the names."
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hw4.data.codes import CAMVID, codes_of
from hw4.data.pictures import NOT_COUNTED, RIGHT, colour_mask, error_map, montage, show_strip

LONG = codes_of(('a class with a very long name indeed', 'b', 'another one that is nearly as long'), void='what nobody labelled')


@pytest.mark.parametrize('codes', [CAMVID, LONG], ids=['camvid', 'long'])
@pytest.mark.parametrize('columns', [1, 2, 5])
@pytest.mark.parametrize('shape', [(360, 480), (218, 178)])
def test_no_text_is_cut(codes, columns, shape):
    mask = np.random.default_rng(0).integers(0, len(codes.palette), shape)
    fig = show_strip([[mask] * columns] * 2, ['a title that is too long to stand on one line above a picture'] * columns, codes)
    FigureCanvasAgg(fig).draw()
    box, (w, h) = fig.get_tightbbox(), fig.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= w and box.y1 <= h
    # no two texts overlap
    texts = [o for ax in fig.axes for o in [ax.title, *(ax.get_legend().get_texts() if ax.get_legend() else [])] if o.get_text()]
    boxes = [o.get_window_extent().padded(-2) for o in texts]  # a box has room for letters that hang lower than these
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_every_id_has_its_colour():
    ids = np.arange(256).reshape(16, 16)
    out = colour_mask(ids, CAMVID).reshape(-1, 3)
    assert (out[:12] == CAMVID.palette).all() and (out[12:] == 255).all()


@pytest.mark.parametrize('colour', ['said', 'true'])
def test_error_map_counts(colour):
    "Every pixel is grey, black or in a class's colour, as often as a count of it says"
    rng = np.random.default_rng(0)
    preds, targs = rng.integers(0, 11, (40, 60)), rng.integers(0, 12, (40, 60))
    out = error_map(preds, targs, CAMVID, colour=colour).reshape(-1, 3)
    wrong, shown = (preds != targs) & (targs < 11), preds if colour == 'said' else targs
    assert (out == RIGHT).all(1).sum() == ((preds == targs) & (targs < 11)).sum()
    assert (out == NOT_COUNTED).all(1).sum() == (targs == 11).sum()
    for i, rgb in enumerate(CAMVID.palette[:11]): assert (out == rgb).all(1).sum() == (wrong & (shown == i)).sum()


def test_no_class_of_the_road_looks_right_or_void():
    "Grey of what is right and black of what is not counted are far from every class's colour"
    far = np.abs(CAMVID.palette[:11].astype(int)[:, None] - np.array([RIGHT, NOT_COUNTED])).max(-1)
    assert far.min() >= 60


def test_montage_places():
    images = [np.full((4, 5, 3), i, np.uint8) for i in range(5)]
    out = montage(images, 2, gap=1)
    assert out.shape == (14, 11, 3) and out[10, 0, 0] == 4 and out[0, 6, 0] == 1 and (out[-1, -1] == 255).all()

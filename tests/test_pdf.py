"The PDF: everything fits the page, every word arrives as it is, and what is missing is said."
import base64
import importlib.util
import io
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hw4.study import pdf

COLUMNS = ('side', 'net', 'weights', 'seed', 'pixel_acc', 'miou', 'images', 'size', 'augment', 'epochs', 'trained', 'minutes')
LONG = 'FCN-8s some_very_long_name_of_a_net_that_nobody_would_give.in21k_ft_in1k'
NASTY = '''#panic("x") $x$ *a* _b_ @c <d> \\ // [e] ` "f" 'g' = h'''


def dot(width, height): return 'data:image/svg+xml;base64,' + base64.b64encode(
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"><rect width="{width}" height="{height}" fill="black"/></svg>'.encode()).decode()


def made_up(**changes):
    "A section as the report makes them"
    rows = pd.DataFrame([{o: f'{o} {i}' for o in COLUMNS} for i in range(3)]).assign(net=[f'{LONG}{i}' for i in range(3)])
    return dict(name='q2-1', title='A title', text='A text', rows=rows, summary=[dict(side='a', net='alexnet, ImageNet', images='here', size='9x9', epochs='4', result='mIoU 0.5; mIoU 0.6')], statements=['One.', 'Two.'],
                caveats=['Three.'], same=dict(epochs='4'), tables=[dict(title='Four', rows=rows[['side', 'miou']], notes=['Five.'])], pictures=[('Wide.', dot(2000, 200)), ('Tall.', dot(200, 3000))], command='hw4 run q2-1', images='here', ids=['a-s0']) | changes


def pages(sections, folder):
    "The pages as arrays of grey, 0 black to 255 white, two pixels a millimetre"
    set_ = pdf.typeset(pdf.lay_out(sections, folder), format='png', ppi=50.8)
    return [np.asarray(Image.open(io.BytesIO(o)).convert('L')) for o in (set_ if isinstance(set_, list) else [set_])]


def text(sections, folder):
    "The words of the PDF, blanks and line ends left out"
    if not shutil.which('pdftotext'): pytest.skip('pdftotext (poppler-utils) is not here')
    (folder/'x.pdf').write_bytes(pdf.typeset(pdf.lay_out(sections, folder)))
    said = subprocess.run(['pdftotext', '-raw', str(folder/'x.pdf'), '-'], capture_output=True, text=True, check=True).stdout
    return ''.join(said.split())


def test_nothing_leaves_the_page(tmp_path):
    "Twelve columns that all differ, a long name, a long path, a wide and a tall figure: the margins stay white"
    found = pages([made_up(images='/data/' + 'folder_without_end_'*20, command='hw4 run q2-1 --weights /data/' + 'file_'*40)], tmp_path)
    assert len(found) > 1
    for page in found:
        assert page.shape == (594, 420)  # A4
        assert page[:, :36].min() == page[:, -36:].min() == 255, 'something stands in the left or right margin'
        assert page[:36].min() == 255 and page[-16:].min() == 255


def test_words_arrive_as_they_are(tmp_path):
    "Markup in a name is text in the PDF, wherever the name stands"
    rows = pd.DataFrame(dict(side=[NASTY, 'b'], miou=['0.1', '0.2']))
    section = made_up(title=NASTY, text=NASTY, rows=rows, summary=[dict.fromkeys(('side', 'net', 'images', 'size', 'epochs', 'result'), NASTY)], statements=[NASTY], caveats=[NASTY], pictures=[(NASTY, dot(9, 9))],
                      same={NASTY: NASTY}, tables=[dict(title=NASTY, rows=rows[['side']], notes=[NASTY])], command=NASTY, images=NASTY, ids=[NASTY])
    assert text([section], tmp_path).count(''.join(NASTY.split())) == 20


def test_a_long_name_is_copied_whole(tmp_path):
    "A name that is broken over lines has nothing added to it"
    assert LONG.replace(' ', '') in text([made_up()], tmp_path)


def test_name_that_is_not_text(tmp_path):
    "A file name of bytes that are no text"
    assert pages([made_up(images=b'caf\xe9'.decode('utf-8', 'surrogateescape'))], tmp_path)


def test_figures_stand_beside_each_other_where_they_fit(tmp_path):
    "Two of half the width share a line; a third, wide one has its own"
    figures = [('Left.', dot(420, 200)), ('Right.', dot(420, 200)), ('Wide.', dot(860, 200))]
    *_, page = pages([made_up(pictures=figures, tables=[])], tmp_path)
    black = (page < 40).sum(1)  # of each row of the page; text covers little of one
    assert [int(black[black > 150][i]) for i in (0, -1)] == pytest.approx([2*420*.74*.75*50.8/72, 860*.74*.75*50.8/72], rel=.05)


def test_without_typst(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r"typst, not installed here: pip install 'hw4\[pdf\]'"): pdf.typeset(tmp_path/'report.typ')
    with pytest.raises(ValueError, match='typst'): pdf.write_pdf(tmp_path, tmp_path/'report.pdf')  # and not that the store is empty

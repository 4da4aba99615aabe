"The report page: it loads nothing, what comes from names is escaped, and every classifier is shown with more than its accuracy."
import io
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hw4.study import attributes, flips, slices
from hw4.study.attributes import known, trusted_columns
from hw4.study.gallery import flip_pictures
from hw4.study.questions import QUESTIONS, note_answer
from hw4.study.records import measure, write_record
from hw4.study.report import write_report
from hw4.study.statements import caveats, rerun, say_changed, statements
from hw4.study.tables import answer_rows, shared, slice_rows, slice_table, tables

VOCAB = ('heavy_makeup', 'no_heavy_makeup')
NASTY = ('<script>alert(1)', '"><img src=x onerror=y> $\\frac{')


def jpeg():
    buffer = io.BytesIO()
    Image.new('RGB', (8, 8)).save(buffer, 'JPEG')
    return buffer.getvalue()


def made(store, *, vocab=VOCAB, seed=0, files=None, truth=None, path=None, n=40, synthetic=False, trained_on=()):
    "A classifier's record of images that nobody has"
    rng = np.random.default_rng(seed)
    files = files or [f'val/{i:06d}.jpg' for i in range(n)]
    truth = np.array([vocab[i % len(vocab)] for i in range(n)] if truth is None else truth)
    logits = rng.normal(size=(n, len(vocab))) + 1.5*(truth[:, None] == np.array(vocab))
    rows = pd.DataFrame(dict(file=files, hash=[f'{i:016x}' for i in range(n)], truth=truth, logits=logits.tolist(), loss=rng.random(n)))
    spec, path = QUESTIONS['q1-6'].sides['fine-tuned, whole faces'], str(path or store/'images')
    return write_record(store, f'made-s{seed}', {
        'spec.json': dict(spec=spec.to_dict(), seed=seed, resolved=dict(vocab=list(vocab), weights=None, trained=10, parameters=10)),
        'environment.json': dict(images=f'portraits: {path}', path=path, synthetic=synthetic, device=dict(name='cpu', precision='float32')),
        'fingerprint.json': dict(train=dict(digest='', files={f'train/{i}.jpg': o for i, o in enumerate(trained_on)}), val=dict(files=dict(zip(files, rows.hash)))), 'history.csv': pd.DataFrame(dict(epoch=[0, 1], train_loss=[1, .5], valid_loss=[1, .7], accuracy=[.5, .6])),
        'predictions.parquet': rows, 'thumbs.parquet': pd.DataFrame(dict(file=files[:2], image=[jpeg()]*2)),
        'result.json': dict(metrics=measure('classify', rows, vocab), seconds=60, n=n)})


def write_list(path, record, male):
    "CelebA's list for the images of a record, in the edition that the name asks for"
    table = pd.DataFrame(dict(Heavy_Makeup=np.where(record.predictions.truth == VOCAB[0], 1, -1), Male=np.where(male, 1, -1)),
                         index=[o.split('/')[-1] for o in record.predictions.file])
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.csv': table.to_csv(path, index_label='image_id')
    else: path.write_text('\n'.join([f'{len(table)}', ' '.join(table), *(f'{o.Index} {o.Heavy_Makeup} {o.Male}' for o in table.itertuples())]))
    return path


class Tags(HTMLParser):
    "Every tag of a page with its attributes"
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs): self.found.append((tag, dict(attrs)))


def page(store, **options): return write_report(store, store/'report.html', **options).read_text(encoding='utf-8')


def test_names_are_escaped_and_nothing_is_loaded(tmp_path):
    "Class names, file names and folders that are markup; the attributes, which lack these images, bring a file name into the text"
    record = made(tmp_path, vocab=NASTY, files=[f'val/<script>{i}.jpg' for i in range(40)], path=tmp_path/'<script src=http:evil>')
    note_answer('q1-6', {'<i>a side</i>': [record]}, tmp_path)
    pd.DataFrame(dict(file=['other.jpg'], Male=[1])).to_csv(tmp_path/'people.csv', index=False)
    said = page(tmp_path, attributes=tmp_path/'people.csv')
    tags = Tags(said).found
    assert {tag for tag, _ in tags} <= set('html head meta title style body h1 h2 h3 p small div section table thead tr th td strong ul li figure img figcaption code br a wbr'.split())
    assert not [k for _, attrs in tags for k in attrs if k.startswith('on')]
    assert all(attrs['src'].startswith('data:image/') for tag, attrs in tags if tag == 'img')
    assert {attrs['href'] for tag, attrs in tags if tag == 'a'} == {'#q1-6'}
    assert not re.search(r'url\(|@import|<link|<script', said)
    for name in ('&lt;script&gt;alert(1)', '&lt;script&gt;0.jpg', '&lt;script src=http:evil&gt;', '&lt;i&gt;a side&lt;/i&gt;'): assert name in said


def test_more_than_accuracy(tmp_path):
    "Three seeds: tables, figures, the women beside the whole, found beside the images"
    runs = [made(tmp_path, seed=o) for o in range(3)]
    write_list(tmp_path/'images'/'list_attr_celeba.txt', runs[0], male=np.arange(40) % 4 == 1)
    note_answer('q1-6', {'fine-tuned': runs}, tmp_path)
    said = page(tmp_path)
    for words in ('Class by class', 'mean over 3 seeds', '>precision<', '>F1<', '>AUC<', 'expected calibration error', 'Brier score', 'log loss',
                  'Who it is made of', '>women only<', '&#34;Is a woman&#34; alone gives 75.0% of these 40 labels', 'how often right where how sure', 'a line a seed'):
        assert words in said, words
    assert '--attributes' not in said
    assert said.count('<figure') == 5  # curves, ROC, reliability, confusion, faces


def test_five_classes_one_of_them_absent(tmp_path):
    made_up = made(tmp_path, vocab=tuple('abcde'), truth=list('abcd')*10)
    note_answer('q1-6', {'five': [made_up]}, tmp_path)
    said = page(tmp_path)
    assert re.search(r'<td>e</td><td class="n">0</td>(<td>–</td>){4}', said)
    assert 'mean over 5' not in said and '--attributes' not in said  # inside the figure; not about makeup


@pytest.mark.parametrize('place', ['images/list_attr_celeba.txt', 'images/list_attr_celeba.csv', 'list_attr_celeba.txt', 'list_attr_celeba.csv'])
def test_where_the_list_is_found(tmp_path, place):
    record = made(tmp_path)
    assert 'no list_attr_celeba.txt or .csv is in' in caveats('q1-6', {'a': [record]})[1]
    write_list(tmp_path/place, record, male=[False]*40)
    assert slice_rows({'a': [record]})[0].slice[1] == 'women only'
    assert len(caveats('q1-6', {'a': [record]})) == 1  # of the seeds


def test_the_list_is_read_once(tmp_path, monkeypatch):
    runs, read = [made(tmp_path, seed=o) for o in range(3)], []
    file = write_list(tmp_path/'list_attr_celeba.txt', runs[0], male=[False]*40)
    monkeypatch.setattr(slices, 'read_attributes', lambda path, f=slices.read_attributes: read.append(path) or f(path))
    for given in (None, file, tmp_path):
        tables({'a': runs}, given)
        caveats('q1-6', {'a': runs}, attributes=given)
    assert read == [file]


def test_a_list_of_other_images_is_not_joined(tmp_path):
    "The twins' files are named as CelebA's are: a list that has other labels for them is refused, and the page says so"
    record = made(tmp_path)
    other = made(tmp_path/'others', truth=[VOCAB[i // 20] for i in range(40)])
    file = write_list(tmp_path/'lists'/'list_attr_celeba.txt', other, male=[False]*40)
    assert 'women only' not in set(slice_rows({'a': [record]}, file)[0].slice)
    said = caveats('q1-6', {'a': [record]}, attributes=file)[1]
    assert 'another Heavy_Makeup than the label for 20 of these 40 images' in said and 'hw4 report --attributes' in said


def test_painted_people_are_not_in_celeba(tmp_path):
    "Nothing is said of CelebA where its people are not, its list is refused also if it happens to agree, and the environment's real images stay out"
    record = made(tmp_path, synthetic=True)
    file = write_list(tmp_path/'real'/'list_attr_celeba.txt', record, male=[False]*40)
    assert not [o for o in caveats('q1-6', {'a': [record]}) if 'woman' in o]
    with pytest.raises(ValueError, match='are synthetic twins'): trusted_columns(record, file)
    said = caveats('q1-6', {'a': [record]}, attributes=file)
    assert [o for o in said if 'are synthetic twins, and' in o] and not [o for o in said if 'woman' in o]
    assert rerun('q1-6', [record]).startswith('env -u HW4_PORTRAITS hw4 run q1-6')
    assert 'env' not in rerun('q1-6', [made(tmp_path/'others')])


def test_images_that_were_trained_on(tmp_path):
    record = made(tmp_path, trained_on=[f'{i:016x}' for i in (3, 5, 99)])
    assert caveats('q1-6', {'a': [record, record]})[0] == '2 of the 40 validation images are also in the training set, by content: the numbers flatter.'


def test_the_first_table_says_of_which_images(tmp_path):
    note_answer('q1-6', {'painted': [made(tmp_path, synthetic=True)], 'real': [made(tmp_path, seed=1)]}, tmp_path)
    first = re.search(r'<table class="first">.*?</table>', page(tmp_path), re.S)[0]
    assert re.findall(r'<td>(synthetic twins|images)</td><td class="n">(.*?)</td><td class="n" data-of="epochs ">(.*?)</td>', first) == [('synthetic twins', '160x128', '6'), ('images', '160x128', '6')]


def test_a_path_that_is_wrong_is_an_error(tmp_path):
    note_answer('q1-6', {'a': [made(tmp_path)]}, tmp_path)
    for wrong in ('nowhere.txt', '.'):
        with pytest.raises(OSError, match='nowhere|list_attr_celeba'): page(tmp_path, attributes=tmp_path/wrong)


def test_the_twelve_worst(tmp_path):
    "Twenty attributes, one of which the net is wrong about: that one is the worst, and 12 of 40 are shown"
    record = made(tmp_path, vocab=('cat', 'dog'), n=100)
    wrong = np.stack(record.predictions.logits).argmax(1) != np.arange(100) % 2
    table = pd.DataFrame({f'a{i}': np.random.default_rng(i).permutation(100) < 50 for i in range(19)}, index=[o.split('/')[-1] for o in record.predictions.file])
    hard = wrong | (np.arange(100) < 10)
    table.assign(hard=hard).to_csv(tmp_path/'table.csv', index_label='file')
    found = slice_table({'a': [record]}, tmp_path/'table.csv')
    classes = ['class = cat', 'class = dog'] if wrong[::2].sum() > wrong[1::2].sum() else ['class = dog', 'class = cat']
    assert found['rows'].slice.tolist()[:4] == ['all', *classes, 'hard = True']
    assert len(found['rows']) == 3 + 12 and 'Of the 40 groups by attribute the 12 worst are shown. Chosen as the worst of 40 groups' in found['notes'][1]
    shares = [float(o[:5]) for o in found['rows'].accuracy[3:]]
    assert shares == sorted(shares)
    assert float(found['rows'].accuracy[3][:5]) == pytest.approx(1 - wrong.sum()/hard.sum(), abs=.001)


def test_several_sides_share_a_table(tmp_path):
    sides = {'one': [made(tmp_path, seed=0)], 'two': [made(tmp_path, seed=1)]}
    classes, people = tables(sides)
    assert classes['rows'].side.tolist() == ['one']*3 + ['two']*3
    assert list(people['rows']) == ['slice', 'images', 'one', 'two'] and len(people['rows']) == 3
    note_answer('q1-6', sides, tmp_path)
    said = page(tmp_path)
    assert said.count('<figure') == 8 and said.count('colspan') == 2  # two sides share a figure of curves, ROC, reliability and flips; each has its own two


@pytest.mark.parametrize('drives, titles', [(['0016E5'], []), (['0016E5', '0001TP'], ['Drive by drive'])])
def test_drives(drives, titles):
    "A single clip is no slice; of two drives each stands by itself"
    cms = [[5, 1, 1, 5, 0, 0]]*12 + [[9, 0, 0, 9, 0, 0]]*12
    rows = pd.DataFrame(dict(file=[f'val/{drives[i // 12 % len(drives)]}_{i}.png' for i in range(24)], cm=cms))
    record = SimpleNamespace(spec=SimpleNamespace(task='segment', dataset='scenes'), vocab=('road', 'sky'), predictions=rows)
    found = tables({'a': [record]})
    assert [o['title'] for o in found] == titles
    if found: assert found[0]['rows'].values.tolist()[1:] == [['drive = 0016E5', 12, f'{5/7:.3f}'], ['drive = 0001TP', 12, '1.000']]


def test_said_once(tmp_path):
    "What all runs have in common leaves the table; a result never does"
    rows = answer_rows({'a': [made(tmp_path, seed=o) for o in range(2)]})
    assert set(shared(rows)) == {'side', 'net', 'weights', 'images', 'size', 'augment', 'epochs', 'recipe', 'trained', 'minutes'}
    assert set(shared(rows.assign(accuracy='0.5'))) == set(shared(rows))


def test_an_unfair_pair(tmp_path):
    "It is said, it has no picture, and hides no fair pair"
    a, b = made(tmp_path), made(tmp_path, seed=1)
    other = made(tmp_path/'others', n=20)
    sides = {'one': [a], 'another': [other], 'third': [b]}
    note_answer('q1-6', {'one': [a], 'third': [b]}, tmp_path)
    said = statements(sides)
    assert [o[:28] for o in said[-2:]] == ['one and another cannot be co', 'another and third cannot be ']
    assert len([o for o in said if 'difference' in o and 'interval' in o]) == 1 and 'corrected' not in said[0]
    assert flip_pictures(sides) == []
    (caption, _), = flip_pictures({'one': [a, b], 'third': [b], 'another': [other]})
    assert caption == 'The images on which one (seed 0 of 2 seeds) and third disagree. Only the first two of the 3 sides are shown.'


def test_one_side(tmp_path):
    "One, two and three seeds, each with its number and the commonest class"
    runs = [made(tmp_path, seed=o) for o in range(3)]
    for k, words in ((1, 'accuracy'), (2, r'accuracy .* \(seed 0 of 2\)'), (3, 'mean over 3 seeds, on 40 images .*for other seeds')):
        said, = statements({'a': runs[:k]})
        assert re.match(f'a: .*{words}', said) and 'would give 0.500; the net' in said and 'exact binomial test, p ' in said
    notes = [slice_table({'a': runs[:k]})['notes'][0] for k in (1, 2, 3)]
    assert ['Wilson' in o for o in notes] == [True, False, False] and 'each of the 2 seeds' in notes[1] and 'mean over 3 seeds' in notes[2]
    assert re.fullmatch(r'0\.\d{3}; 0\.\d{3}', slice_table({'a': runs[:2]})['rows'].accuracy[0])


def test_another_net_is_said_of_its_own_side(tmp_path):
    "A side is held against its own spec of the question; one that the question does not know is not"
    asked = lambda **sides: [o for o in caveats('q1-8', {k.replace('_', ' '): v for k, v in sides.items()}) if 'asks for' in o]
    record = made(tmp_path)
    assert asked(another_net=[record]) == ['The question asks for tf_efficientnet_lite2; alexnet stands in its place here.']
    assert asked(something=[record]) == []


def test_what_is_changed_is_said_and_asked_again():
    "Also what the command line has no option for: a question that was measured on another split is not asked again on the usual one"
    spec = replace(QUESTIONS['q1-6'].sides['fine-tuned, whole faces'], valid='test', epochs=2)
    changed = SimpleNamespace(spec=spec, seed=0, environment=dict(synthetic=False, path='/my "images"'))
    assert shlex.split(rerun('q1-6', [changed])) == ['hw4', 'run', 'q1-6', '--epochs', '2', '--valid', 'test', '--portraits', '/my "images"']
    changed.spec = replace(spec, bs=8)
    assert shlex.split(rerun('q1-6', [changed])) == ['python', '-c', """from hw4.study.questions import ask; ask('q1-6', epochs=2, bs=8, valid='test', path='/my "images"')"""]
    changed.spec = replace(spec, lr=.001, freeze_epochs=1, augment='stronger', mixup=.2)
    assert shlex.split(rerun('q1-6', [changed])) == ['hw4', 'run', 'q1-6', '--epochs', '2', '--valid', 'test', '--augment', 'stronger', '--freeze-epochs', '1',
                                                     '--lr', '0.001', '--mixup', '0.2', '--portraits', '/my "images"']
    changed.spec = replace(spec, valid='val')
    assert shlex.split(rerun('q1-6', [changed])) == ['hw4', 'run', 'q1-6', '--epochs', '2', '--portraits', '/my "images"']
    assert say_changed(QUESTIONS['q1-6'].sides['fine-tuned, whole faces'], spec) == ["Changed from the question's own recipe: epochs 2 (for 6), valid test (for val)."]


def test_a_path_with_blanks_can_be_pasted(tmp_path):
    assert f"--portraits '{tmp_path}/my images'" in rerun('q1-6', [made(tmp_path, path=tmp_path/'my images')])


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    record = made(tmp_path)
    def refuse(*args): raise PermissionError('no')
    monkeypatch.setattr(attributes, 'find_list', refuse)
    monkeypatch.setattr(flips.Path, 'is_file', refuse)
    assert 'no list_attr_celeba' in known(record)[1]
    assert flips.picture_of(record, record.predictions.file.iloc[-1]) is None


def test_blanks(tmp_path):
    "A group of those of whom it is not known; who is a woman must be known of all"
    record = made(tmp_path)
    table = pd.DataFrame(dict(Male=[None, *[True, False]*19, None], hair=[None]*10 + ['red']*30, age=[np.nan]*12 + [3.]*28), index=[o.split('/')[-1] for o in record.predictions.file])
    table.to_csv(tmp_path/'table.csv', index_label='file')
    found = slices.slices(record, slices.attribute_columns(record, tmp_path/'table.csv')).set_index('slice').images.to_dict()
    assert found == {'all': 40, 'Male = True': 19, 'Male = False': 19, 'hair = red': 30, 'hair = unknown': 10, 'age = 3.0': 28, 'age = unknown': 12}
    with pytest.raises(ValueError, match='column Male is blank for 2 of 40 images'): trusted_columns(record, tmp_path/'table.csv')
    assert 'column Male is blank' in caveats('q1-6', {'a': [record]}, attributes=tmp_path/'table.csv')[1]


def test_many_values():
    "A name of its own for each of 200,000 images makes no group and takes no room"
    n = 200_000
    found = slices.cut(pd.DataFrame(dict(name=[f'{i}.jpg' for i in range(n)], half=np.arange(n) % 2)))
    assert [(k, len(o)) for k, o in found] == [('half = 0', n//2), ('half = 1', n//2)]

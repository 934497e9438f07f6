"Image files of all kinds: deep grey values with one scale for all, transparency, EXIF, CMYK, tiny ones, pipes."
import os, threading
from pathlib import Path
import numpy as np, pytest
from fastai.learner import load_learner
from PIL import Image
from fastnoisy.audit.images import (MIN_SIDE, N_VALUES, OpenImageFile, grey_to_8_bits, image_facts, image_notes,
                                    image_opener, is_deep, to_rgb, value_range)
from fastnoisy.audit.run import audit
from fastnoisy.audit.sources import labelled_csv, labelled_folder, look_at_image

def save_deep(file, low=8000, high=16000, seed=0, size=(16, 16)):
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(low, high, size).astype(np.uint16)
    Image.fromarray(values).save(file)
    return values

def deep_folder(folder, n=12):
    "Two classes of 16 bits, dark and bright"
    for k,c in enumerate('ab'):
        for i in range(n): save_deep(folder/c/f'{i:02}.png', 1000 + 20000*k, 9000 + 20000*k, seed=n*k + i)
    return folder

def grey(image): return np.asarray(image)[...,0]

def test_deep_modes():
    assert [is_deep(o) for o in ('I', 'F', 'I;16', 'I;16B', 'L', 'RGB', '1', 'LA')] == [True]*4 + [False]*4

def test_grey_to_8_bits_is_linear_and_cut_off():
    values = np.array([[0, 100, 200], [300, 400, 65535]])
    by_hand = [[round(min(max((v - 100)/(300 - 100), 0), 1)*255) for v in row] for row in values.tolist()]
    assert grey_to_8_bits(values, (100, 300)).tolist() == by_hand
    assert grey_to_8_bits(np.array([[np.nan, np.inf, -np.inf, .5]]), (0, 1)).tolist() == [[0, 255, 0, 128]]
    assert grey_to_8_bits(np.full((2, 2), 7.)).tolist() == [[0, 0], [0, 0]]

def test_value_range():
    assert value_range(np.arange(1001.)) == pytest.approx((1., 999.))
    assert value_range(np.full(5, 3.)) == (3., 4.) and value_range(np.array([])) == (0., 1.)
    mostly_same = np.array([5.]*100_000 + [9.])
    assert value_range(mostly_same) == (5., 9.) # the percentiles are the same
    dead_pixel = np.r_[np.linspace(100, 200, 9999), 65535]
    assert value_range(dead_pixel)[1] < 201

@pytest.mark.parametrize('kind', ['png', 'tif', 'float', 'int32'])
def test_one_scale_for_all_images_of_a_set(kind, tmp_path):
    rng = np.random.default_rng(0)
    for name,low in (('dark', 2000), ('bright', 30000)):
        values = rng.integers(low, low + 2000, (16, 16))
        array = dict(float=np.float32, int32=np.int32).get(kind, np.uint16)
        if kind == 'float': values = values/60000
        file = tmp_path/f'{name}.{"png" if kind == "png" else "tif"}'
        Image.fromarray(values.astype(array)).save(file)
    files = sorted(tmp_path.iterdir()) # bright, dark
    facts = [image_facts(o) for o in files]
    opener = image_opener(facts)
    pooled = np.concatenate([np.asarray(Image.open(o)).ravel() for o in files])
    low,high = np.percentile(pooled, [.1, 99.9])
    for file in files:
        values = np.asarray(Image.open(file)).astype(float)
        assert np.array_equal(grey(opener(file)), ((values - low)/(high - low)*255).clip(0, 255).round())
    assert grey(opener(files[0])).min() > grey(opener(files[1])).max() + 100
    assert image_notes(facts, opener)[0].startswith('2 images have grey values of more than 8 bits')

def test_the_range_comes_from_all_parts_of_an_image(tmp_path):
    "Not from some columns only, as with every n-th pixel of an image whose width n divides"
    values = np.zeros((1024, 1024), np.uint16) + 100
    values[:,512:] = 5000
    Image.fromarray(values).save(tmp_path/'a.png')
    found = image_facts(tmp_path/'a.png').values
    assert len(found) == N_VALUES and .4 < (found == 5000).mean() < .6

def test_mixture_of_8_and_16_bits_is_said(tmp_path):
    save_deep(tmp_path/'a.png')
    Image.new('L', (8, 8), 77).save(tmp_path/'b.png')
    facts = [image_facts(o) for o in sorted(tmp_path.iterdir())]
    opener = image_opener(facts)
    assert 'The other 1 images are of 8 bits' in image_notes(facts, opener)[1] and set(grey(opener(tmp_path/'b.png')).ravel()) == {77}

def test_no_finite_value(tmp_path):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path/'a.tif')
    assert look_at_image(tmp_path/'a.tif') == (None, 'ValueError: there is no finite grey value')

@pytest.mark.parametrize('mode, colour', [('RGBA', (200, 0, 0, 128)), ('LA', (100, 128))])
def test_transparency_is_put_on_white(mode, colour, tmp_path):
    Image.new(mode, (6, 6), colour).save(tmp_path/'a.png')
    facts = image_facts(tmp_path/'a.png')
    shown = OpenImageFile()(tmp_path/'a.png')
    rgb = colour[:3] if mode == 'RGBA' else colour[:1]*3
    assert shown.mode == 'RGB' and np.abs(np.asarray(shown)[0,0] - [v*128/255 + 255*127/255 for v in rgb]).max() <= 1
    assert facts.is_transparent and image_notes([facts], OpenImageFile()) == ['1 images have transparent pixels, behind which white was put.']

def test_transparent_palette_and_colour(tmp_path):
    image = Image.new('P', (6, 6), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path/'a.png', transparency=1)
    Image.new('RGB', (6, 6), (1, 2, 3)).save(tmp_path/'b.png', transparency=(1, 2, 3))
    for o in 'ab': assert OpenImageFile()(tmp_path/f'{o}.png').getpixel((0, 0)) == (255, 255, 255)
    Image.new('RGBA', (6, 6), (1, 2, 3, 255)).save(tmp_path/'c.png')
    assert not image_facts(tmp_path/'c.png').is_transparent # a channel, but opaque

@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tif'])
def test_turned_photographs(suffix, orientation, tmp_path):
    from PIL import ImageOps
    upright = Image.fromarray(np.add.outer(np.arange(0, 160, 10), np.arange(0, 80, 10)).astype(np.uint8)).convert('RGB')
    exif = Image.Exif()
    exif[274] = orientation
    upright.save(tmp_path/f'a.{suffix}', exif=exif, **({'quality': 100} if suffix == 'jpg' else {}))
    expected = ImageOps.exif_transpose(Image.open(tmp_path/f'a.{suffix}')).convert('RGB')
    shown = OpenImageFile()(tmp_path/f'a.{suffix}')
    assert shown.size == expected.size == image_facts(tmp_path/f'a.{suffix}').size and np.array_equal(shown, expected)
    assert shown.size == ((16, 8) if orientation > 4 else (8, 16))

def test_damaged_exif_is_no_reason_to_leave_an_image_out(tmp_path):
    Image.new('RGB', (8, 8), 'red').save(tmp_path/'a.jpg', exif=b'Exif\0\0II*\0\xff\xff\xff\x7fnonsense')
    assert look_at_image(tmp_path/'a.jpg') == ((8, 8), None) and OpenImageFile()(tmp_path/'a.jpg').size == (8, 8)

def test_cmyk(tmp_path):
    Image.new('CMYK', (8, 8), (0, 255, 255, 0)).save(tmp_path/'a.jpg', quality=100)
    facts = image_facts(tmp_path/'a.jpg')
    r,g,b = OpenImageFile()(tmp_path/'a.jpg').getpixel((0, 0))
    assert r > 240 and g < 15 and b < 15 and 'CMYK' in image_notes([facts], OpenImageFile())[0]

def test_what_else_the_opener_takes(tmp_path):
    values = save_deep(tmp_path/'a.png')
    opener = OpenImageFile({'integer': (8000, 16000)})
    shown = [opener(o) for o in (tmp_path/'a.png', str(tmp_path/'a.png'), (tmp_path/'a.png').read_bytes(), values, Image.fromarray(values))]
    assert all(np.array_equal(o, shown[0]) for o in shown) and {type(o).__name__ for o in shown} == {'PILImage'}

@pytest.mark.parametrize('size', [(1, 1), (3, 20), (20, 1)])
def test_tiny_images_are_enlarged(size):
    shown = to_rgb(Image.new('L', size)), OpenImageFile()(Image.new('L', size, 9))
    assert shown[0].size == size and min(shown[1].size) >= MIN_SIDE and set(np.asarray(shown[1]).ravel()) == {9}
    assert shown[1].size[0]*size[1] == shown[1].size[1]*size[0]

# in an audit

def test_audit_of_16_bits_sees_what_that_of_8_bits_sees(tmp_path):
    "The classes differ in brightness only: all white, nothing could be learnt"
    report = audit(deep_folder(tmp_path/'p'), epochs=8, arch='small_cnn', pretrained=False, out=tmp_path/'out', device='cpu')
    assert (report.predicted_label == report.given_label).mean() > .9
    assert '24 images have grey values of more than 8 bits' in report.summary()
    assert '24 images have grey values of more than 8 bits' in (tmp_path/'out/report.html').read_text()
    drawn = report.plot_top(2).axes[0].images[0].get_array()
    assert len(np.unique(drawn)) > 20
    learn = load_learner(tmp_path/'out/learner.pkl')
    with learn.no_bar(): said = [learn.predict(tmp_path/f'p/{c}/00.png')[0] for c in 'ab']
    assert said == ['a', 'b'] # with the scale of the set

def test_one_pixel_does_not_end_an_audit(tmp_path):
    for c in 'ab':
        (tmp_path/'p'/c).mkdir(parents=True)
        for i in range(6): Image.new('RGB', (1, 1 + i % 3), (i*9, 90 if c == 'a' else 0, 0)).save(tmp_path/'p'/c/f'{i}.png')
    report = audit(tmp_path/'p', epochs=1, out=tmp_path/'out', device='cpu')
    assert len(report) == 12 and (tmp_path/'out/report.html').exists() and 'side below 4 pixels' in report.summary()

# what is no file

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='named pipes')
def test_a_pipe_is_left_out_at_once(tmp_path):
    deep_folder(tmp_path/'p', 3)
    os.mkfifo(tmp_path/'p/a/x.png')
    found = []
    thread = threading.Thread(target=lambda: found.append(labelled_folder(tmp_path/'p')), daemon=True)
    thread.start()
    thread.join(20)
    if not found: (tmp_path/'p/a/x.png').write_bytes(b'') # lets the reader go
    assert found and len(found[0]) == 6
    assert found[0].left_out.problem.tolist() == ['OSError: this is a pipe, a socket or a device, not a file']

def test_a_folder_in_a_list_of_images(tmp_path):
    for o in 'ab': save_deep(tmp_path/f'{o}.png')
    (tmp_path/'list.csv').write_text('file,label\na.png,1\nb.png,2\n.,1\n')
    found = labelled_csv(tmp_path/'list.csv', x='file')
    assert found.left_out.problem.tolist() == ['OSError: this is a folder, not a file'] and len(found) == 2

def test_names_with_a_dot_are_counted(tmp_path):
    source = deep_folder(tmp_path/'p', 3)
    save_deep(source/'a/.old.png')
    for i in range(2): save_deep(source/f'.trash/{i}.png')
    (source/'.git').mkdir()
    (source/'a/.DS_Store').write_text('')
    found = labelled_folder(source)
    assert len(found) == 6 and found.notes[0] == (
        "3 images were left out because a dot begins their names or those of their folders: "
        f"{str(Path('a/.old.png'))!r}, '.trash'.")

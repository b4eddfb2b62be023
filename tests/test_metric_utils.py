"""From images to statistics: caching, item-wise random numbers, errors before work."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import textwrap
import types
import zipfile

import numpy as np
import PIL.Image
import pytest
import torch
import warm_python
from metric_fixtures import dataset_kwargs, tiny_generator, write_images
from peak_memory import STATUS

import dnnlib
from metrics import content_hash, detectors, frechet_inception_distance, metric_utils, sampling, shared_features
from metrics.progress import ProgressMonitor

CPU = torch.device("cpu")
URL = "builtin:thumbnail"


class Thumbnail(torch.nn.Module):
    def forward(self, img, return_features=True):
        return torch.nn.functional.adaptive_avg_pool2d(img.float(), 2).flatten(1)


@pytest.fixture
def thumbnails(monkeypatch, tmp_path):
    """A detector of 12 features, and a cache folder of the test's own. Returns the number of detector calls."""
    calls = []

    class Counting(Thumbnail):
        def forward(self, img, return_features=True):
            calls.append(len(img))
            return super().forward(img)

    monkeypatch.setattr(detectors, "load", lambda url, device, verbose=False: Counting())
    monkeypatch.setattr(detectors, "get_hash", lambda url: "hash of " + url)
    monkeypatch.setattr(metric_utils, "_loaded_detectors", {})
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "cache"))
    return calls


def options(G=None, data=None, **kwargs):
    return metric_utils.MetricOptions(G=G, dataset_kwargs=data, device=CPU, **kwargs)


def dataset_stats(opts, **kwargs):
    kwargs = {"capture_mean_cov": True, **kwargs}
    return metric_utils.compute_feature_stats_for_dataset(opts, URL, dict(return_features=True), **kwargs)


def generator_stats(opts, num, **kwargs):
    return metric_utils.compute_feature_stats_for_generator(
        opts, URL, dict(return_features=True), max_items=num, capture_all=True, capture_mean_cov=True, **kwargs)


def cache_files(tmp_path):
    return sorted((tmp_path / "cache" / "gan-metrics").glob("*.pkl"))


# Generated images


@pytest.mark.parametrize("c_dim", [0, 3])
def test_generated_features_do_not_depend_on_the_batch_size(thumbnails, tmp_path, c_dim):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 9, labels=[0, 1, 2] * 3), use_labels=True)
    G = tiny_generator(c_dim=c_dim)
    results = [generator_stats(options(G, data, batch_size=size), 20).get_all() for size in (1, 7, 64)]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=0.1)   # a rounding flip moves a mean of 64 pixels by 1 / 64
    assert np.abs(results[0][0] - results[0][1]).max() > 1


def test_item_i_is_the_same_image_in_any_selection_and_follows_the_seed():
    G = tiny_generator()
    images = sampling.generate_images(G, [0, 1, 2, 3], seed=5, device=CPU)
    torch.testing.assert_close(sampling.generate_images(G, [3], seed=5, device=CPU)[0], images[3], atol=1e-5, rtol=1e-5)
    assert (sampling.generate_images(G, [3], seed=6, device=CPU)[0] - images[3]).abs().max() > 0.01


def test_every_image_has_noise_of_its_own_unless_another_mode_is_asked_for():
    G = tiny_generator()
    fresh = sampling.generate_images(G, [0], seed=0, device=CPU)
    const = sampling.generate_images(G, [0], seed=0, device=CPU, G_kwargs=dict(noise_mode="const"))
    z, _ = sampling.draw_latents(8, 0, [0])
    torch.testing.assert_close(const, G(z, torch.zeros([1, 0]), noise_mode="const"))
    assert (fresh - const).abs().max() > 0.01


def test_drawn_noise_acts_like_random_noise_of_the_network():
    """Per-image maps in place of the buffers give the spread over images that noise_mode='random' gives."""
    G = tiny_generator()
    gens = [sampling.item_generator(0, sampling.STREAM_NOISE, i) for i in range(400)]
    z = torch.zeros([400, 8]) + torch.randn([1, 8])
    drawn = sampling.call_with_noise(G, sampling.draw_noise(G, gens, CPU), z=z, c=torch.zeros([400, 0]))
    random = G(z, torch.zeros([400, 0]), noise_mode="random")
    torch.testing.assert_close(drawn.mean(dim=0), random.mean(dim=0), atol=0.15, rtol=0)
    assert drawn.std(dim=0).mean() == pytest.approx(float(random.std(dim=0).mean()), rel=0.05)


def test_measuring_leaves_the_network_as_it_was(thumbnails):
    G = tiny_generator().train()
    before = {name: value.clone() for name, value in G.state_dict().items()}
    generator_stats(options(G), 4)
    assert G.training and all(torch.equal(before[name], value) for name, value in G.state_dict().items())


def test_generated_images_are_rounded_as_the_host_does():
    img = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.999, 1.0, 3.0])
    assert sampling.to_uint8(img).tolist() == [0, 0, 64, 128, 255, 255, 255]


def test_an_unconditional_network_needs_no_data_set(thumbnails):
    assert generator_stats(options(tiny_generator(), data=None), 3).num_items == 3


# Real images and their cache


def test_dataset_features_do_not_depend_on_the_batch_size(thumbnails, tmp_path):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 20))
    means = [dataset_stats(options(data=data, cache=False, batch_size=size)).get_mean_cov()[0] for size in (1, 7, 64)]
    np.testing.assert_allclose(means[1], means[0], rtol=1e-6)
    np.testing.assert_allclose(means[2], means[0], rtol=1e-6)


def test_a_second_run_takes_its_statistics_from_the_cache(thumbnails, tmp_path):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 12))
    first = dataset_stats(options(data=data)).get_mean_cov()
    thumbnails.clear()
    second = dataset_stats(options(data=data)).get_mean_cov()
    assert not thumbnails
    np.testing.assert_array_equal(first[1], second[1])


def test_a_changed_data_set_of_the_same_name_is_measured_anew(thumbnails, tmp_path):
    path = tmp_path / "d.zip"
    data = dataset_kwargs(write_images(path, 12, seed=0))
    first = dataset_stats(options(data=data)).get_mean_cov()[0]
    stat = os.stat(path)
    write_images(path, 12, seed=1)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))   # a copy tool may well restore the time
    second = dataset_stats(options(data=data)).get_mean_cov()[0]
    assert np.abs(first - second).max() > 1


def test_a_moved_data_set_is_recognised(thumbnails, tmp_path):
    path = write_images(tmp_path / "d.zip", 12)
    dataset_stats(options(data=dataset_kwargs(path)))
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(path, tmp_path / "elsewhere" / "d.zip")
    thumbnails.clear()
    dataset_stats(options(data=dataset_kwargs(moved)))
    assert not thumbnails


def test_the_number_of_items_belongs_to_the_cache_key(thumbnails, tmp_path):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 12))
    assert dataset_stats(options(data=data), max_items=5).num_items == 5
    assert dataset_stats(options(data=data)).num_items == 12
    assert dataset_stats(options(data=data), max_items=50).num_items == 12
    assert len(cache_files(tmp_path)) == 2


def test_another_detector_file_of_the_same_name_is_not_served_from_the_cache(thumbnails, tmp_path, monkeypatch):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 12))
    dataset_stats(options(data=data))
    monkeypatch.setattr(detectors, "get_hash", lambda url: "another hash")
    thumbnails.clear()
    dataset_stats(options(data=data))
    assert thumbnails


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_cache_file_is_made_anew(thumbnails, tmp_path, damage):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 12))
    expected = dataset_stats(options(data=data)).get_mean_cov()[0]
    (file,) = cache_files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.warns(UserWarning, match="made anew"):
        actual = dataset_stats(options(data=data)).get_mean_cov()[0]
    np.testing.assert_array_equal(actual, expected)
    assert file.read_bytes() == whole


class Scalar:
    """Pickles as a numpy number of type object, whose bytes numpy would take for the address of one."""

    def __reduce__(self):
        return np.float64(1).__reduce__()[0], (np.dtype("O"), b"12345678")


def tampered(state, **changes):
    return pickle.dumps({**state, **changes}, protocol=4)


@pytest.mark.parametrize("changes", [
    dict(raw_mean=Scalar()), dict(num_items=-1), dict(num_items="12"), dict(num_features=3), dict(max_items=11),
    dict(raw_mean=np.zeros([4], dtype=np.float32)), dict(raw_cov=None), dict(all_features=[np.zeros([])]),
    dict(capture_all=True), dict(more=1), dict(raw_mean=os.system),
], ids=lambda changes: "-".join(f"{name}-{type(value).__name__}" for name, value in changes.items()))
def test_a_cache_file_that_was_tampered_with_is_made_anew(thumbnails, tmp_path, changes):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 12))
    expected = dataset_stats(options(data=data)).get_mean_cov()[0]
    (file,) = cache_files(tmp_path)
    file.write_bytes(tampered(pickle.loads(file.read_bytes()), **changes))
    with pytest.warns(UserWarning, match="made anew"):
        actual = dataset_stats(options(data=data)).get_mean_cov()[0]
    np.testing.assert_array_equal(actual, expected)


def test_statistics_survive_saving_with_all_features(tmp_path):
    stats = metric_utils.FeatureStats(capture_all=True, capture_mean_cov=True)
    for rows in np.random.RandomState(0).randn(3, 5, 4):
        stats.append(rows)
    stats.save(tmp_path / "stats.pkl")
    loaded = metric_utils.FeatureStats.load(tmp_path / "stats.pkl")
    np.testing.assert_array_equal(loaded.get_all(), stats.get_all())
    np.testing.assert_array_equal(loaded.get_mean_cov()[1], stats.get_mean_cov()[1])


def test_metrics_of_one_call_share_their_features(thumbnails, tmp_path):
    """Real and generated ones, whatever statistics each metric takes of them; the results are those of single calls."""
    opts = options(tiny_generator(), dataset_kwargs(write_images(tmp_path / "d.zip", 12)), cache=False)

    def measure(**kwargs):
        return dataset_stats(opts, **kwargs), generator_stats(opts, 9)

    alone = measure(capture_mean_cov=True)
    with shared_features.sharing():
        measure(capture_all=True, capture_mean_cov=False)
        thumbnails.clear()
        shared = measure(capture_mean_cov=True)
        assert not thumbnails
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(a.get_mean_cov()[1], b.get_mean_cov()[1])
    measure(capture_mean_cov=True)
    assert thumbnails   # nothing is kept beyond the call


def test_features_beyond_the_limit_of_memory_are_not_kept(monkeypatch):
    monkeypatch.setattr(shared_features, "MAX_BYTES", 100)
    computed = []

    def compute(name):
        for _ in range(2):
            computed.append(name)
            yield np.zeros([3, 4])

    with shared_features.sharing():
        for _ in range(2):
            assert len(list(shared_features.feature_batches("key", compute("a")))) == 2
    assert len(computed) == 4


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(thumbnails, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "file"))
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(write_images(tmp_path / "d.zip", 4)) as archive:
        archive.extractall(tmp_path / "folder")
    with pytest.warns(UserWarning, match="the statistics of the real images are not kept: "):
        assert dataset_stats(options(data=dataset_kwargs(tmp_path / "folder"))).num_items == 4


def test_a_folder_and_a_zip_of_the_same_files_have_one_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "cache"))
    path = write_images(tmp_path / "d.zip", 5, labels=[0, 1, 2, 3, 4])
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder")
    assert content_hash.hash_dataset(str(tmp_path / "folder")) == content_hash.hash_dataset(str(path))
    (tmp_path / "folder" / "notes.txt").write_text("not part of the data set")
    assert content_hash.hash_dataset(str(tmp_path / "folder")) == content_hash.hash_dataset(str(path))


def test_the_hash_of_a_folder_notices_a_change_that_keeps_length_and_time(tmp_path, monkeypatch):
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    folder.mkdir()
    PIL.Image.new("RGB", (8, 8), "red").save(folder / "a.bmp")
    before = content_hash.hash_dataset(str(folder))
    assert content_hash.hash_dataset(str(folder)) == before
    stat = os.stat(folder / "a.bmp")
    PIL.Image.new("RGB", (8, 8), "blue").save(folder / "a.bmp")
    os.utime(folder / "a.bmp", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert os.stat(folder / "a.bmp").st_size == stat.st_size
    assert content_hash.hash_dataset(str(folder)) != before


def test_the_hash_of_a_network_is_that_of_its_values():
    assert content_hash.hash_state(tiny_generator()) == content_hash.hash_state(tiny_generator())
    changed = tiny_generator()
    changed.mapping.w_avg[3] += 1e-7
    assert content_hash.hash_state(changed) != content_hash.hash_state(tiny_generator())


KILLED_RUN = """
    import os, signal, sys
    import torch
    sys.path[:0] = [{root!r}, {tests!r}]
    from metrics import detectors, metric_utils
    from test_metric_utils import Thumbnail, dataset_kwargs, dataset_stats, options
    detectors.load = lambda url, device, verbose=False: Thumbnail()
    detectors.get_hash = lambda url: "hash"
    if {where!r} == "before the rename":
        os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    elif {where!r} == "within the write":
        metric_utils.pickle.dump = lambda state, file, protocol: (
            file.write(b"half"), file.flush(), os.kill(os.getpid(), signal.SIGKILL))
    elif {where!r} == "within the features":
        forward, calls = Thumbnail.forward, []
        def dying(self, img, return_features=True):
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return forward(self, img)
        Thumbnail.forward = dying
    print(dataset_stats(options(data=dataset_kwargs({path!r}), batch_size=4)).get_mean_cov()[0].tolist())
"""


def test_a_killed_run_leaves_no_half_written_cache_and_the_next_one_gives_the_same_numbers(tmp_path):
    path = write_images(tmp_path / "d.zip", 12)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    def run(where):
        script = KILLED_RUN.format(root=root, tests=os.path.join(root, "tests"), where=where, path=str(path))
        env = {**os.environ, "DNNLIB_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        return warm_python.run(["-c", textwrap.dedent(script)], env=env)

    for where in ("within the features", "within the write", "before the rename"):
        assert run(where).returncode == -signal.SIGKILL
        assert not cache_files(tmp_path)
    first, second = run("never"), run("never")   # the second one reads what the first one kept
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert len(cache_files(tmp_path)) == 1


MEMORY_RUN = """
    import sys
    import torch
    sys.path[:0] = [{root!r}, {tests!r}]
    from metrics import detectors
    from peak_memory import peak_memory
    from test_metric_utils import LinearNetwork, Thumbnail, generator_options
    detectors.load = lambda url, device, verbose=False: Thumbnail()
    detectors.get_hash = lambda url: "hash"
    from metrics import metric_utils
    metric_utils.compute_feature_stats_for_generator(
        generator_options(), "builtin:thumbnail", {{}}, batch_gen=64, capture_mean_cov=True, max_items={num})
    print(peak_memory())
"""


class LinearNetwork(torch.nn.Module):
    z_dim, c_dim, img_resolution, img_channels = 12, 0, 8, 3

    def forward(self, z, c):
        return z.reshape(-1, 3, 2, 2).repeat(1, 1, 4, 4) / 4


def generator_options():
    return options(LinearNetwork())


@pytest.mark.skipif(not STATUS.exists(), reason="needs the memory counters of Linux")
def test_memory_stays_flat_from_2000_to_20000_images():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    peaks = []
    for num in (2_000, 20_000):
        script = textwrap.dedent(MEMORY_RUN.format(root=root, tests=os.path.join(root, "tests"), num=num))
        done = warm_python.run(["-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0]


# Errors


def test_one_image_is_no_distribution(thumbnails, tmp_path):
    with pytest.raises(ValueError, match="d gives 1 image"):
        dataset_stats(options(data=dataset_kwargs(write_images(tmp_path / "d.zip", 1))))


def test_an_empty_zip_is_named(thumbnails, tmp_path):
    with pytest.raises(OSError, match="d.zip contains no image"):
        dataset_stats(options(data=dataset_kwargs(write_images(tmp_path / "d.zip", 0))))


@pytest.mark.parametrize("network", [dict(resolution=8), dict(channels=1)])
def test_a_network_of_another_shape_is_refused_before_any_image_is_read(thumbnails, tmp_path, network):
    opts = options(tiny_generator(**network), dataset_kwargs(write_images(tmp_path / "d.zip", 5)))
    with pytest.raises(ValueError, match=r"images of shape \[3, 16, 16\], the network makes"):
        dataset_stats(opts)
    assert not thumbnails


def test_labels_of_another_width_are_refused(thumbnails, tmp_path):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 4, labels=[0, 1, 0, 1]), use_labels=True)
    with pytest.raises(ValueError, match="labels of width 3, data set d has width 2"):
        generator_stats(options(tiny_generator(c_dim=3), data), 4)


def test_a_metric_of_real_images_says_that_it_has_none(thumbnails):
    with pytest.raises(ValueError, match="no data set is known"):
        dataset_stats(options(tiny_generator()))


@pytest.mark.parametrize("output", [torch.zeros([4, 12, 1]), torch.zeros([3, 12]), (torch.zeros([4, 12]),)])
def test_a_detector_of_another_output_shape_is_refused(output):
    with pytest.raises(ValueError, match=r"must return \[4, F\]"):
        detectors.check_output(output, URL, 4, {})


def test_a_detector_of_another_width_is_refused():
    with pytest.raises(ValueError, match="inception-2015-12-05.pt must return 2048 features, got 64"):
        detectors.check_output(torch.zeros([4, 64]), detectors.INCEPTION_URL, 4, dict(return_features=True))


# Options and progress


def test_gray_images_are_repeated_to_three_channels():
    img = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert torch.equal(sampling.to_three_channels(img), img.expand(1, 3, 2, 2))


def test_options_have_the_attributes_of_the_host():
    opts = metric_utils.MetricOptions(G_kwargs=dict(a=1), dataset_kwargs=dict(b=2))
    assert isinstance(opts.G_kwargs, dnnlib.EasyDict) and opts.dataset_kwargs.b == 2
    assert (opts.num_gpus, opts.rank, opts.cache) == (1, 0, True)
    assert opts.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="rank"):
        metric_utils.MetricOptions(num_gpus=2, rank=2)


def test_detector_names_are_file_stems():
    assert metric_utils.get_feature_detector_name(detectors.INCEPTION_URL) == "inception-2015-12-05"


def test_progress_of_parts_adds_up_to_the_whole():
    seen = []
    whole = ProgressMonitor(progress_fn=lambda cur, total: seen.append((cur, total)))
    first = whole.sub(num_items=10, flush_interval=5, rel_lo=0, rel_hi=0.5)
    second = whole.sub(num_items=10, flush_interval=5, rel_lo=0.5, rel_hi=1)
    for part in (first, second):
        for items in (4, 5, 9, 10):
            part.update(items)
    assert seen == [(0, 1000), (0, 1000), (500, 1000), (250, 1000), (500, 1000), (750, 1000), (1000, 1000)]


def test_a_silent_monitor_prints_nothing_and_a_loud_one_to_stderr(capsys):
    for verbose in (False, True):
        ProgressMonitor(verbose=verbose).sub(tag="work", num_items=2).update(2)
    out = capsys.readouterr()
    assert out.out == "" and out.err.startswith("work") and out.err.count("\n") == 1


# Several processes


def in_two_processes(folder):
    torch.multiprocessing.spawn(interleaved, args=(folder,), nprocs=2)


def interleaved(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    patch = pytest.MonkeyPatch()   # for the life of this process
    patch.setattr(detectors, "load", lambda url, device, verbose=False: Thumbnail())
    patch.setattr(detectors, "get_hash", lambda url: "hash")
    patch.setenv("DNNLIB_CACHE_DIR", f"{folder}/cache")
    opts = options(tiny_generator(), dataset_kwargs(f"{folder}/d.zip"), num_gpus=2, rank=rank)
    for _ in range(2):   # computed, then from the cache
        real = dataset_stats(opts, capture_all=True, max_items=9)
    gen = generator_stats(opts, 9)
    np.savez(f"{folder}/rank{rank}.npz", real=real.get_all(), gen=gen.get_all())
    torch.distributed.barrier()  # gloo may abort a process whose peer is still at work
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_features_of_one_in_the_same_order(thumbnails, tmp_path):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 10))
    warm_python.call(in_two_processes, str(tmp_path))
    real = dataset_stats(options(data=data, cache=False), capture_all=True, max_items=9).get_all()
    gen = generator_stats(options(tiny_generator()), 9).get_all()
    for rank in (0, 1):
        with np.load(tmp_path / f"rank{rank}.npz") as found:
            np.testing.assert_allclose(found["real"], real, atol=1e-3)
            np.testing.assert_allclose(found["gen"], gen, atol=0.1)


def test_frechet_distance_of_a_pipeline_is_that_of_its_features(thumbnails, tmp_path):
    """Images to scalar in one go, against plain numpy on the same images."""
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 30))
    opts = options(tiny_generator(), data, seed=0)
    actual = frechet_inception_distance.compute_fid(opts, None, 25, detector_url=URL)
    real = dataset_stats(options(data=data, cache=False), capture_all=True).get_all().astype(np.float64)
    images = sampling.to_uint8(sampling.generate_images(tiny_generator(), range(25), 0, CPU))
    gen = Thumbnail()(images).double().numpy()
    expected = frechet_inception_distance.frechet_distance(
        real.mean(axis=0), np.cov(real.T, bias=True), gen.mean(axis=0), np.cov(gen.T, bias=True))
    assert actual == pytest.approx(expected, rel=1e-3)
    assert opts.provenance.num_real == 30 and opts.provenance.num_generated == 25


def test_namespace_without_shape_is_accepted_as_network(thumbnails, tmp_path):
    """Tools that only compare data sets pass no network with a shape."""
    opts = options(types.SimpleNamespace(c_dim=0), dataset_kwargs(write_images(tmp_path / "d.zip", 3)))
    assert dataset_stats(opts).num_items == 3

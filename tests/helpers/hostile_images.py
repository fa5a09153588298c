"""What the folders of others hold: one writer for every kind of image file that has ever made a program fall over."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

PARTS = (10, 25, 50, 75, 90, 99)
WIDTH, HEIGHT = 46, 34


@dataclass(frozen=True)
class Hostile:
    """One file.

    Attributes:
        kind: what it is.
        path: where.
        pixels: (H, W, 3) uint8 that it shows; None where it shows nothing.
        must: "read", "refuse", or "either": refused, or read as these pixels and no others.
        tolerance: of a lossy format, in grey levels.
    """

    kind: str
    path: Path
    pixels: np.ndarray | None
    must: str
    tolerance: int = 0


def write_hostile(folder: Path) -> tuple[Hostile, ...]:
    """Write one file of every kind into the folder; folders and links to folders among them."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for group in (_cut_off, _deep, _printing, _indexed, _moving, _turned, _empty, _bombs, _places, _names, _disguised):
        found += list(group(folder))
    return tuple(found)


def picture(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(H, W, 3) uint8: a slope with some noise, so that no two places are alike."""
    y, x = np.mgrid[0:height, 0:width]
    slopes = np.stack([x * 200 // width, y * 200 // height, (x + y) * 200 // (width + height)], axis=-1)
    return (slopes + np.random.default_rng(seed).integers(0, 50, slopes.shape)).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG written by hand: rows with their filter bytes, not yet compressed."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _cut_off(folder: Path) -> Iterator[Hostile]:
    pixels = picture(1, 120, 90)
    files = {
        "jpg": encoded(pixels, "JPEG", quality=90),
        "png": encoded(pixels, "PNG"),
        "webp": encoded(pixels, "WEBP", lossless=True),
        "gif": encoded(Image.fromarray(pixels).quantize(64), "GIF"),
        "tif": encoded(pixels, "TIFF"),
    }
    for suffix, content in files.items():
        whole = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        for part in PARTS:
            path = _put(folder / f"cut-{part}.{suffix}", content[: len(content) * part // 100])
            yield Hostile(f"{part} % of a {suffix}", path, whole, "either")


def _deep(folder: Path) -> Iterator[Hostile]:
    rng = np.random.default_rng(2)
    grey = rng.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    shown = np.repeat(((grey.astype(np.int64) * 2 + 257) // 514).astype(np.uint8)[..., None], 3, axis=2)
    yield Hostile("16-bit grey", _put(folder / "grey16.png", encoded(grey, "PNG")), shown, "read")
    colour = rng.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    path = _put(folder / "colour16.png", png(WIDTH, HEIGHT, 16, 2, rows))
    yield Hostile("16-bit colour", path, (colour >> 8).astype(np.uint8), "read")
    floats = rng.random((HEIGHT, WIDTH), dtype=np.float32) * 1000
    yield Hostile("floats without a scale", _put(folder / "float.tif", encoded(floats, "TIFF")), None, "refuse")


def _printing(folder: Path) -> Iterator[Hostile]:
    cyan, magenta, yellow, black = 200, 40, 90, 30
    flat = encoded(Image.new("CMYK", (WIDTH, HEIGHT), (cyan, magenta, yellow, black)), "JPEG", quality=100)
    paper = 255 - black
    ink = np.array([(255 - value) * paper / 255 for value in (cyan, magenta, yellow)])
    shown = np.broadcast_to(ink.round().astype(np.uint8), (HEIGHT, WIDTH, 3))
    yield Hostile("CMYK", _put(folder / "cmyk.jpg", flat), shown, "read", 3)
    # the same four numbers, called luma, two chromas and black, each stored as its complement
    place = flat.index(b"Adobe") + 11
    y, cb, cr = (255 - value for value in (cyan, magenta, yellow))
    colours = np.array(
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    )
    ink = (255 - colours.clip(0, 255)) * paper / 255  # the colours of YCCK are amounts of ink
    shown = np.broadcast_to(ink.round().astype(np.uint8), (HEIGHT, WIDTH, 3))
    yield Hostile("YCCK", _put(folder / "ycck.jpg", flat[:place] + b"\x02" + flat[place + 1 :]), shown, "read", 3)


def _indexed(folder: Path) -> Iterator[Hostile]:
    rng = np.random.default_rng(3)
    numbers, palette = rng.integers(0, 4, (HEIGHT, WIDTH), dtype=np.uint8), rng.integers(0, 256, (4, 3), dtype=np.uint8)
    alpha = np.array([0, 255, 128, 255])
    image = Image.new("P", (WIDTH, HEIGHT))
    image.putdata(numbers.flatten().tolist())
    image.putpalette(palette.flatten().tolist())
    mixed = (palette * (alpha[:, None] / 255) + 255 * (1 - alpha[:, None] / 255)).round().astype(np.uint8)
    path = _put(folder / "palette.png", encoded(image, "PNG", transparency=bytes(alpha.tolist())))
    yield Hostile("palette with transparency", path, mixed[numbers], "read", 1)


def _moving(folder: Path) -> Iterator[Hostile]:
    frames = [picture(seed) for seed in (4, 5, 6)]
    for kind, suffix, options in (("PNG", "png", {}), ("WEBP", "webp", {"lossless": True})):
        images = [Image.fromarray(frame) for frame in frames]
        content = encoded(images[0], kind, save_all=True, append_images=images[1:], **options)
        yield Hostile(f"animated {suffix}", _put(folder / f"animated.{suffix}", content), frames[0], "read")
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    flat = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in colours]
    content = encoded(flat[0], "GIF", save_all=True, append_images=flat[1:])
    shown = np.broadcast_to(np.array(colours[0], dtype=np.uint8), (HEIGHT, WIDTH, 3))
    yield Hostile("animated gif", _put(folder / "animated.gif", content), shown, "read")
    small = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    place = small.index(b"\x2c")  # the frame's left and top: outside of the canvas
    small[place + 1 : place + 5] = struct.pack("<HH", 60000, 60000)
    yield Hostile("gif with a frame far away", _put(folder / "far.gif", bytes(small)), None, "refuse")


def _turned(folder: Path) -> Iterator[Hostile]:
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, 1),
    }
    for number, turn in turns.items():
        exif = Image.Exif()
        exif[0x0112] = number
        pixels = picture(10 + number)
        path = _put(folder / f"turned-{number}.png", encoded(pixels, "PNG", exif=exif.tobytes()))
        yield Hostile(f"EXIF orientation {number}", path, turn(pixels), "read")
    damaged = encoded(picture(20), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03")
    yield Hostile("damaged EXIF", _put(folder / "exif.png", damaged), picture(20), "read")
    profile = encoded(picture(21), "PNG", icc_profile=os.urandom(300))
    yield Hostile("broken colour profile", _put(folder / "profile.png", profile), picture(21), "read")


def _empty(folder: Path) -> Iterator[Hostile]:
    texts = {
        "no bytes": b"",
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n%%EOF\n",
        "PostScript": b"%!PS\n{ } loop\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>",
        "PDF": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n",
        "noise": np.random.default_rng(7).bytes(3000),
        "half a signature": b"\x89PNG\r\n",
        "icon": encoded(picture(8, 16, 16), "ICO"),
    }
    for kind, content in texts.items():
        yield Hostile(kind, _put(folder / f"{kind.replace(' ', '-')}.png", content), None, "refuse")


def _bombs(folder: Path) -> Iterator[Hostile]:
    side = 13_000
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    yield Hostile("169 megapixels in 20 kB", _put(folder / "bomb.png", content), None, "refuse")
    gif = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    yield Hostile("gif of 65535 x 65535", _put(folder / "bomb.gif", bytes(gif)), None, "refuse")
    jpeg = bytearray(encoded(picture(), "JPEG"))
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 5 : place + 9] = struct.pack(">HH", 65535, 65535)
    yield Hostile("jpeg of 65535 x 65535", _put(folder / "bomb.jpg", bytes(jpeg)), None, "refuse")
    yield Hostile(
        "ppm of 60000 x 60000", _put(folder / "bomb.ppm", b"P6\n60000 60000\n255\n" + bytes(99)), None, "refuse"
    )
    bmp = bytearray(encoded(picture(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 50_000, 50_000)
    yield Hostile("bmp of 50000 x 50000", _put(folder / "bomb.bmp", bytes(bmp)), None, "refuse")
    tiff = bytearray(encoded(picture(), "TIFF"))
    for tag in (256, 257):  # width and height
        _set_tag_(tiff, tag, 60_000)
    yield Hostile("tiff of 60000 x 60000", _put(folder / "bomb.tif", bytes(tiff)), None, "refuse")
    webp = encoded(Image.new("RGB", (16_383, 6_200)), "WEBP", quality=1, method=0)
    yield Hostile("webp of 16383 x 6200", _put(folder / "bomb.webp", webp), None, "refuse")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 << 20), 9))
    pixels = picture(30)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    yield Hostile(
        "80 MB of text in a png", _put(folder / "text.png", png(WIDTH, HEIGHT, 8, 2, rows, text)), pixels, "either"
    )
    yield Hostile("jpeg of 20,000 scans", _put(folder / "scans.jpg", many_scans(20_000)), None, "refuse")
    strips = bytearray(encoded(picture(), "TIFF"))
    for tag in (273, 279):  # where the strips lie, and how long they are
        _set_tag_(strips, tag, 0xFFFFFFF0)
    yield Hostile("tiff strips that lie nowhere", _put(folder / "strips.tif", bytes(strips)), None, "refuse")
    many = b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 256, 4, 0xFFFFFFFF, 8) * 400
    yield Hostile("tiff of 65535 tags", _put(folder / "tags.tif", many), None, "refuse")
    huge = folder / "sparse.png"
    with huge.open("wb") as file:
        file.write(encoded(picture(), "PNG")[:60])
        file.truncate(10 << 30)
    yield Hostile("10 GB of nothing", huge, None, "refuse")


def _set_tag_(tiff: bytearray, tag: int, value: int) -> None:
    short, long = (tiff.find(struct.pack("<HH", tag, kind)) for kind in (3, 4))
    place = max(short, long)
    tiff[place + 2 : place + 12] = struct.pack("<HII", 4, 1, value)


def many_scans(scans: int, side: int = 4000) -> bytes:
    """A progressive JPEG the last scan of which comes again and again."""
    content = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def _places(folder: Path) -> Iterator[Hostile]:
    loop, nowhere, itself = folder / "loop.png", folder / "nowhere.png", folder / "folder-loop"
    loop.symlink_to(loop)
    nowhere.symlink_to(folder / "there-is-none.png")
    itself.symlink_to(folder, target_is_directory=True)
    yield Hostile("link to itself", loop, None, "refuse")
    yield Hostile("link to nowhere", nowhere, None, "refuse")
    (folder / "folder.jpg").mkdir()
    pipe = folder / "pipe.png"
    os.mkfifo(pipe)
    yield Hostile("pipe", pipe, None, "refuse")
    for device in ("zero", "null"):
        link = folder / f"{device}.png"
        link.symlink_to(f"/dev/{device}")
        yield Hostile(f"link to /dev/{device}", link, None, "refuse")
    closed = _put(folder / "closed.png", encoded(picture(40), "PNG"))
    closed.chmod(0)
    yield Hostile("no permission", closed, picture(40), "either")  # who is root reads it all the same


def _names(folder: Path) -> Iterator[Hostile]:
    names = {
        "Unicode": "蜂 \u00e9 e\u0301.png",
        "newline": "new\nline\r\ttab.png",
        "right to left": "\u202egnp.exe.png",
        "250 bytes": "n" * 246 + ".png",
        "not Unicode": os.fsdecode(b"\xff\xfe\xed\xa0\x80.png"),
        "escape sequence": "\x1b[2J\x1b[31mred.png",
        "markup": "[red]<script>alert(1)</script>".replace("/", "_") + ".png",
        "quotes": "a'\"`$(id);&|.png",
    }
    for number, (kind, name) in enumerate(names.items()):
        pixels = picture(50 + number)
        yield Hostile(f"name: {kind}", _put(folder / name, encoded(pixels, "PNG")), pixels, "read")
        yield Hostile(f"broken, name: {kind}", _put(folder / ("x" + name[1:]), b"broken"), None, "refuse")


def _disguised(folder: Path) -> Iterator[Hostile]:
    for number, (kind, name) in enumerate(
        (("PNG", "png.jpg"), ("BMP", "bmp.png"), ("WEBP", "webp.gif"), ("GIF", "gif.JPG"))
    ):
        pixels = picture(60 + number)
        image = Image.fromarray(pixels)
        content = encoded(
            image.quantize(16) if kind == "GIF" else image, kind, **({"lossless": True} if kind == "WEBP" else {})
        )
        shown = np.asarray(image.quantize(16).convert("RGB")) if kind == "GIF" else pixels
        yield Hostile(f"{kind} named {name}", _put(folder / name, content), shown, "read")

"""Finished frames say that a model made them; read back by PIL and by hand."""

import io
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from blender_addon import provenance
from musev_engine import frames
from musev_engine.provenance import TRAINED_MEDIA, xmp_of

XMP = xmp_of("MuseV for Blender 1.2", "a <model> & more", "“CC0”\x00 1.0 ☂")
NAMES = {
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "rights": "http://ns.adobe.com/xap/1.0/rights/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
}
PICTURES = [np.arange(48, dtype=np.uint8).reshape(4, 4, 3), np.arange(64, dtype=np.uint8).reshape(4, 4, 4)]


def chunks(png):
    """(type, data) of every chunk, its checksum compared."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    place = 8
    while place < len(png):
        (size,) = struct.unpack_from(">I", png, place)
        body = png[place + 4 : place + 8 + size]
        assert struct.unpack_from(">I", png, place + 8 + size) == (zlib.crc32(body),)
        yield body[:4], body[4:]
        place += 12 + size


@pytest.mark.parametrize("picture", PICTURES, ids=["opaque", "alpha"])
def test_a_frame_says_where_it_comes_from(picture):
    png = frames.encode_png(picture, xmp=XMP)
    kinds = [kind for kind, _ in chunks(png)]
    assert kinds[:2] == [b"IHDR", b"iTXt"] and kinds.count(b"iTXt") == 1 and kinds[-1] == b"IEND"
    text = dict(chunks(png))[b"iTXt"]
    keyword, packet = text[:17], text[22:]
    assert keyword == b"XML:com.adobe.xmp" and text[17:22] == bytes(5)
    with Image.open(io.BytesIO(png)) as opened:
        opened.load()
        assert opened.text["XML:com.adobe.xmp"].encode() == packet
        assert np.array_equal(np.asarray(opened), picture)

    described = ElementTree.fromstring(packet.decode().encode()).find(".//rdf:Description", NAMES)
    assert described.find("ext:DigitalSourceType", NAMES).text == TRAINED_MEDIA
    assert TRAINED_MEDIA == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert described.find("xmp:CreatorTool", NAMES).text == "MuseV for Blender 1.2"
    assert described.find("ext:AISystemUsed", NAMES).text == "a <model> & more"
    terms = described.find("rights:UsageTerms//rdf:li", NAMES).text
    assert "a <model> & more" in terms and "“CC0”  1.0 ☂" in terms


def test_without_it_a_picture_says_nothing_and_bytes_are_always_the_same():
    plain = frames.encode_png(PICTURES[0])
    assert b"iTXt" not in plain
    assert frames.encode_png(PICTURES[0], xmp=XMP) == frames.encode_png(PICTURES[0].copy(), xmp=XMP)
    assert frames.encode_png(PICTURES[0], xmp=XMP) != plain
    assert "not known" in xmp_of("x", "y", "")


def test_the_extension_writes_the_same_and_reads_it_out_of_frames(tmp_path):
    png = frames.encode_png(PICTURES[0], xmp=XMP)
    assert provenance.of_png(png) == provenance.of_png(png[: provenance.LOOKED_AT]) == XMP
    plain = frames.encode_png(PICTURES[0])
    assert provenance.with_packet(plain, XMP) == png and provenance.with_packet(plain, "") == plain
    assert provenance.joined([XMP, XMP]) == XMP
    assert (
        provenance.of_png(plain) == provenance.of_png(png[:50]) == provenance.of_file(tmp_path / "none") == ""
    )


def test_a_picture_of_several_names_all_their_models():
    other = xmp_of("MuseV for Blender 1.3", "b", "MIT")
    told = ElementTree.fromstring(provenance.joined([XMP, "", other]).encode()).find(
        ".//rdf:Description", NAMES
    )
    assert told.find("ext:DigitalSourceType", NAMES).text == TRAINED_MEDIA
    assert told.find("ext:AISystemUsed", NAMES).text == "a <model> & more; b"
    assert told.find("xmp:CreatorTool", NAMES).text == "MuseV for Blender 1.2; MuseV for Blender 1.3"
    assert told.find("rights:UsageTerms//rdf:li", NAMES).text.endswith("licence: MIT.")

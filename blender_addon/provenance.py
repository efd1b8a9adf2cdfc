"""What pictures that are made of generated ones say of themselves: that a trained model made them, and which.

The twin of `musev_engine/provenance.py`, which writes the same XMP packet (ISO 16684-1) into every frame: here it is
read out of frames, and written into what the extension makes of them. Knows neither `bpy` nor the engine.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape, unescape

KEYWORD = b"XML:com.adobe.xmp"  # of the PNG chunk that holds XMP (XMP specification, part 3)
AFTER_HEADER = 33  # bytes: PNG's signature and its first chunk, IHDR
LOOKED_AT = 8192  # bytes of a file's beginning, where the packet is in ours
TOOL = "MuseV for Blender"
TRAINED_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
   <xmp:CreatorTool>{tool}</xmp:CreatorTool>
   <Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>
   <Iptc4xmpExt:AISystemUsed>{model}</Iptc4xmpExt:AISystemUsed>
   <xmpRights:UsageTerms><rdf:Alt><rdf:li xml:lang="x-default">{terms}</rdf:li></rdf:Alt></xmpRights:UsageTerms>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
FIELDS = {
    "tool": r"<xmp:CreatorTool>(.*?)</xmp:CreatorTool>",
    "model": r"<Iptc4xmpExt:AISystemUsed>(.*?)</Iptc4xmpExt:AISystemUsed>",
    "terms": r'<rdf:li xml:lang="x-default">(.*?)</rdf:li>',
}


def of_png(first: bytes) -> str:
    """The XMP packet near the beginning of a PNG file; "" for none."""
    at = 8
    while at + 12 <= len(first):
        (length,) = struct.unpack_from(">I", first, at)
        kind, data = first[at + 4 : at + 8], first[at + 8 : at + 8 + length]
        if kind == b"IDAT" or len(data) < length:
            break
        if kind == b"iTXt" and data.startswith(KEYWORD + b"\0\0"):  # not compressed
            return data[len(KEYWORD) + 3 :].split(b"\0", 2)[-1].decode("utf-8", "replace")
        at += 12 + length
    return ""


def of_file(file: Path) -> str:
    """The same of a file; "" where it can't be read."""
    try:
        with open(file, "rb") as stream:
            return of_png(stream.read(LOOKED_AT))
    except OSError:
        return ""


def packet(model: str, terms: str, tool: str = TOOL) -> str:
    """The XMP packet of a picture. model: what made it; terms: under which terms it may be used, as a sentence."""
    tool, model, terms = map(escape, (tool, model, terms))
    return PACKET.format(tool=tool, source=TRAINED_MEDIA, model=model, terms=terms)


def joined(packets: Iterable[str]) -> str:
    """The packet of a picture that is made of others: all their models and terms."""
    found: dict[str, dict[str, None]] = {name: {} for name in FIELDS}
    for each in packets:
        for name, pattern in FIELDS.items():
            if (said := re.search(pattern, each, re.DOTALL)) is not None:
                found[name][unescape(said[1])] = None
    return packet("; ".join(found["model"]), " ".join(found["terms"]), "; ".join(found["tool"]) or TOOL)


def chunk(packet: str) -> bytes:
    """A packet as the PNG chunk that holds it (PNG specification, 11.3.3.4)."""
    # No compression, no language, no translated keyword.
    data = b"iTXt" + KEYWORD + b"\0\0\0\0\0" + packet.encode()
    return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


def with_packet(png: bytes, packet: str) -> bytes:
    """A PNG file with the packet as its second chunk; as it is where the packet is ""."""
    return png[:AFTER_HEADER] + chunk(packet) + png[AFTER_HEADER:] if packet else png

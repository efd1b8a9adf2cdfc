"""What a finished frame says of itself: that a trained model made it, which one, and under which licence.

An XMP packet (ISO 16684-1) with IPTC's digital source type, https://cv.iptc.org/newscodes/digitalsourcetype/, and the
properties for AI systems of the IPTC Photo Metadata Standard 2025.1. It names no time and no machine: the same clip
has the same bytes.
"""

import re
import struct
import zlib
from xml.sax.saxutils import escape

TRAINED_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
KEYWORD = b"XML:com.adobe.xmp"  # of the PNG chunk that holds XMP (XMP specification, part 3)
AFTER_HEADER = 33  # bytes: PNG's signature and its first chunk, IHDR
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


def xmp_of(tool: str, model: str, licence: str) -> str:
    """The XMP packet of a frame. tool: the program with its version; model, licence: their names."""
    terms = f"Made with the model {model}. The model's licence: {licence or 'not known'}."
    tool, model, terms = (
        escape(re.sub(r"[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", " ", each))
        for each in (tool, model, terms)
    )
    return PACKET.format(tool=tool, source=TRAINED_MEDIA, model=model, terms=terms)


def with_xmp(png: bytes, xmp: str) -> bytes:
    """A PNG file with the packet as its second chunk: iTXt, not compressed (PNG specification, 11.3.3.4)."""
    data = KEYWORD + b"\0\0\0\0\0" + xmp.encode()  # no compression, no language, no translated keyword
    chunk = b"iTXt" + data
    framed = struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:AFTER_HEADER] + framed + png[AFTER_HEADER:]

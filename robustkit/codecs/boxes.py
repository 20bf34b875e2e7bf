"""The layout of ISO base media files (ISO/IEC 14496-12, clause 4.2), which AVIF, HEIC and JPEG XL's container are."""

from __future__ import annotations

from robustkit.codec import Layout
from robustkit.codecs.pillow import Fields

#: Boxes that hold boxes, and the bytes of their own that come before those.
_CONTAINERS = {"meta": 4, "iprp": 0, "ipco": 0, "dinf": 0, "iinf": 6, "iref": 4, "moov": 0, "trak": 0, "mdia": 0}
#: Fields at the start of boxes.
_FIELDS = {
    "ispe": [("version and flags", 32), ("width", 32), ("height", 32)],
    "pitm": [("version and flags", 32), ("item", 16)],
    "jxlp": [("index", 32)],
}
#: Boxes with the coded image.
_PAYLOADS = {"mdat", "jxlc", "jxlp"}


class Boxes(Fields):
    """Walks the boxes; all but the coded image's data is header."""

    def layout(self) -> Layout:
        # Ends and names of the boxes that the next field lies in; a list, so that damage can't recurse.
        inside: list[tuple[int, str]] = [(len(self.stream), "")]
        while self.byte < len(self.stream):
            while self.byte >= inside[-1][0]:
                inside.pop()
            end, path = inside[-1]
            start = self.byte
            kind = self.stream[start + 4 : start + 8].decode("ascii", "replace")
            name = f"{path}{kind}"
            size = self.field(f"{name} size", 32, limit=end)
            self.field(f"{name} type", 32, limit=end)
            if size == 1:
                size = self.field(f"{name} large size", 64, limit=end)
            # 0: to the end of what it is in. Less than its own header is damage, and the header is all there is.
            stop = end if size == 0 else min(max(start + size, self.byte), end)
            if kind in _CONTAINERS and len(inside) < 16:
                self.field(f"{name} version and flags", 8 * _CONTAINERS[kind], limit=stop)
                inside.append((stop, f"{name}/"))
                continue
            if kind in _FIELDS:
                for what, bits in _FIELDS[kind]:
                    self.field(f"{name} {what}", bits, limit=stop)
            self.until(stop, f"{name} data", header=kind not in _PAYLOADS)
        return super().layout()

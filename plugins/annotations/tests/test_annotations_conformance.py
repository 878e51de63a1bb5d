"""The conformance kit on the four formats."""

from __future__ import annotations

import json
from types import MappingProxyType

from ldm_core.testing import AnnotationSuite

_COCO = {
    "images": [{"id": 5, "file_name": "a.png", "height": 20, "width": 40}, {"id": 7, "file_name": "b.png"}],
    "annotations": [{"id": 1, "image_id": 5, "category_id": 9, "bbox": [1, 2, 3, 4]}],
    "categories": [{"id": 9, "name": "cat"}],
}


class TestCoco(AnnotationSuite):
    component = "coco"
    files = MappingProxyType({"instances.json": json.dumps(_COCO).encode()})
    pictures = ("a.png", "b.png")
    objects = MappingProxyType({"a.png": 1, "b.png": 0})


class TestOpenImages(AnnotationSuite):
    component = "openimages"
    files = MappingProxyType(
        {"boxes.csv": b"ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/1,0.1,0.2,0.3,0.4\na,/m/2,0,1,0,1\n"}
    )
    beside = MappingProxyType({"class-descriptions.csv": b"/m/1,Cat\n/m/2,Dog\n"})
    pictures = ("a.png",)
    objects = MappingProxyType({"a.png": 2})


class TestVoc(AnnotationSuite):
    component = "voc"
    files = MappingProxyType(
        {
            "Annotations/a.xml": b"<annotation><filename>a.png</filename><size><width>40</width><height>20</height>"
            b"</size><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
            b"</object></annotation>"
        }
    )
    pictures = ("a.png",)
    objects = MappingProxyType({"a.png": 1})


class TestYolo(AnnotationSuite):
    component = "yolo"
    files = MappingProxyType({"labels/a.txt": b"0 0.5 0.5 0.25 0.25\n", "labels/b.txt": b""})
    beside = MappingProxyType({"data.yaml": b"names: [cat]\n"})
    pictures = ("images/a.png", "images/b.png")
    objects = MappingProxyType({"images/a.png": 1, "images/b.png": 0})

"""Sources of images with boxes: COCO, LVIS, Objects365, Pascal VOC, ODVG, MDETR and Flickr30k Entities."""

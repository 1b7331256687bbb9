"""The classes of a drawn frame's label."""

CLASSES = ("sky", "building", "road", "pavement", "tree", "pole", "sign", "car", "pedestrian")
SKY, BUILDING, ROAD, PAVEMENT, TREE, POLE, SIGN, CAR, PEDESTRIAN = range(len(CLASSES))

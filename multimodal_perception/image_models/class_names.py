"""Class names of public data sets, in the order of the outputs of networks trained on them.

COCO: Lin et al. 2014; Cityscapes: Cordts et al. 2016; CamVid: Brostow et al. 2009; ADE20K: Zhou et al.
2017.
"""

from __future__ import annotations

# The name of outputs without a class.
UNUSED = "unused"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# The 80 classes of COCO's boxes.
COCO_80 = _words(
    """
    person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant
    stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe
    backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat
    baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon
    bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch
    potted_plant bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave
    oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush
    """
)
# Category numbers 1 to 90 of COCO that no box has.
_UNUSED_COCO_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def _coco_by_category() -> tuple[str, ...]:
    """COCO's classes by category number, 0 (background) to 90."""
    names = iter(COCO_80)
    return (
        UNUSED,
        *(UNUSED if number in _UNUSED_COCO_IDS else next(names) for number in range(1, 91)),
    )


COCO_91 = _coco_by_category()
CITYSCAPES_19 = _words(
    """
    road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain sky
    person rider car truck bus train motorcycle bicycle
    """
)
# By the label numbers of Cityscapes' files, 0 to 33.
CITYSCAPES_34 = _words(
    """
    unlabeled ego_vehicle rectification_border out_of_roi static dynamic ground road sidewalk
    parking rail_track building wall fence guard_rail bridge tunnel pole polegroup traffic_light
    traffic_sign vegetation terrain sky person rider car truck bus caravan trailer train
    motorcycle bicycle
    """
)
# The 11 classes that publications use, and the 12th for unlabelled pixels.
CAMVID_11 = _words(
    """
    sky building pole road pavement tree sign fence car pedestrian bicyclist
    """
)
CAMVID_12 = (*CAMVID_11, UNUSED)
# All 32 classes, in alphabetical order as in the class list of the data set.
CAMVID_32 = _words(
    """
    animal archway bicyclist bridge building car cartluggagepram child column_pole fence
    lanemkgsdriv lanemkgsnondriv misc_text motorcyclescooter othermoving parkingblock pedestrian
    road roadshoulder sidewalk signsymbol sky suvpickuptruck trafficcone trafficlight train tree
    truck_bus tunnel vegetationmisc void wall
    """
)
ADE20K_150 = _words(
    """
    wall building sky floor tree ceiling road bed windowpane grass cabinet sidewalk person earth
    door table mountain plant curtain chair car water painting sofa shelf house sea mirror rug
    field armchair seat fence desk rock wardrobe lamp bathtub railing cushion base box column
    signboard chest_of_drawers counter sand sink skyscraper fireplace refrigerator grandstand
    path stairs runway case pool_table pillow screen_door stairway river bridge bookcase blind
    coffee_table toilet flower book hill bench countertop stove palm kitchen_island computer
    swivel_chair boat bar arcade_machine hovel bus towel light truck tower chandelier awning
    streetlight booth television_receiver airplane dirt_track apparel pole land bannister
    escalator ottoman bottle buffet poster stage van ship fountain conveyer_belt canopy washer
    plaything swimming_pool stool barrel basket waterfall tent bag minibike cradle oven ball
    food step tank trade_name microwave pot animal bicycle lake dishwasher screen blanket
    sculpture hood sconce vase traffic_light tray ashcan fan pier crt_screen plate monitor
    bulletin_board shower radiator glass clock flag
    """
)
# By the name of a data set, the lists of classes, which differ in their number.
DETECTION_SETS = {"coco": (COCO_80, COCO_91[1:], COCO_91)}
SEGMENTATION_SETS = {
    "cityscapes": (CITYSCAPES_19, CITYSCAPES_34),
    "camvid": (CAMVID_11, CAMVID_12, CAMVID_32),
    "ade20k": (ADE20K_150, (UNUSED, *ADE20K_150)),
}

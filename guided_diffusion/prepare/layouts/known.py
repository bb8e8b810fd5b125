"""Known words in the names of files and folders, in lower case."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


IMAGE = _words("image images img imgs picture pictures photo photos scan scans input inputs fundus")
NEUTRAL = _words("original originals raw retinal color colour all set data dataset")
ORDINARY_FOLDERS = _words("original originals raw slices frames")  # of images, where no other word is in the name
MASK = _words(
    """
    mask masks label labels seg segs segm segmentation segmentations segmented gt gts groundtruth groundtruths ground
    truth truths annotation annotations annotated annot anno annos manual manuals contour contours outline outlines
    target targets binary delineation delineations
    """
)
RATER = _words(
    """
    rater raters reader readers expert experts annotator annotators observer observers grader graders doctor doctors
    radiologist radiologists physician physicians clinician clinicians pathologist pathologists ho user users student
    specialist ophthalmologist dermatologist neurologist surgeon novice junior senior reviewer
    """
)
EYE = _words(
    """
    disc disk cup od oc optic macula fovea vessel vessels artery arteries vein veins av retina choroid microaneurysm
    microaneurysms haemorrhage haemorrhages hemorrhage hemorrhages exudate exudates hard soft ma he ex se drusen fluid
    irf srf ped
    """
)
LESIONS = _words(
    """
    lesion lesions nodule nodules tumor tumors tumour tumours cyst cysts polyp polyps edema oedema necrosis necrotic
    core whole enhancing wt tc et ed ncr net infarct stroke metastasis metastases mass calcification plaque infiltrate
    consolidation effusion ggo wmh gtv ctv ptv
    """
)
ORGANS = _words(
    """
    liver kidney kidneys spleen pancreas stomach bladder prostate pz tz cz rectum heart aorta myocardium myo lv rv la ra
    atrium ventricle ventricles lung lungs airway trachea brain brainstem cerebellum hippocampus csf gm wm skull bone
    bones femur spine vertebra vertebrae cartilage muscle fat skin thyroid breast uterus ovary cervix esophagus
    oesophagus duodenum colon gallbladder nucleus nuclei cell cells gland glands tooth teeth
    """
)
PLACES = _words("left right anterior posterior upper lower inner outer foreground background")
NUMBERED = _words("class structure task organ region roi tissue")  # their number is part of the name
STRUCTURE = EYE | LESIONS | ORGANS | PLACES | NUMBERED
FUSED = _words("consensus staple majority average averaged fused fusion mean union intersection")
NOT_A_MASK = _words(
    """
    overlay overlays preview previews thumbnail thumbnails thumb thumbs heatmap heatmaps prediction predictions pred
    preds output outputs visualization visualisation fov
    """
)
MODALITY = _words("t1 t2 f1 f2 t1c t1ce t1gd t2w t1w pd flair adc dwi swi ct mr mri pet us")

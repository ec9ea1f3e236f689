"""The attributes of a DICOM instance of one level (PS3.3, A.32.8)."""

import hashlib
import json
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ImageCms
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage

from zoomldm.geometry.levels import TILE
from zoomldm.writers.image import Image

# Neither the scan's date nor the time of writing: the first is unknown, the second would give two
# files of the same pixels different bytes.
_DATE, _TIME = "19700101", "000000"
_ROOT = "2.25."  # UIDs from numbers of 128 bits, without a registered root (PS3.5 B.2)
_IMPLEMENTATION = UID("2.25.329800735698586629295641978511506172918")
_TEXT = 1024  # maximum characters of a short text


def write_header(
    file: BinaryIO,
    image: Image,
    number: int,
    lengths: NDArray[np.int64],
    provenance: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """Write all elements before Pixel Data.

    UIDs are hashes of the provenance and the settings: different pixels get different UIDs.

    Args:
        file: opened for writing, at its start.
        image: the image.
        number: index of the level.
        lengths: bytes of each of its frames.
        provenance: what the image comes from, without any names of the slide.
        settings: settings of the writer.
    """
    level, finest = image.levels[number], image.levels[0]
    seed = json.dumps([_stable(provenance), settings, [str(part) for part in image.levels]])

    def uid(what: str) -> str:
        return _ROOT + str(int.from_bytes(hashlib.sha256(f"{what} {seed}".encode()).digest()[:16]))

    kind = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED" if number else "NONE"]
    name = hashlib.sha256(seed.encode()).hexdigest()[:16]
    ds = Dataset()
    ds.file_meta = _file_meta(UID(uid(f"instance {number}")))
    _common(ds, uid, name)
    ds.SOPInstanceUID = uid(f"instance {number}")
    ds.InstanceNumber = number + 1
    ds.SyntheticData = "YES" if level.origin == "generated" else "NO"

    ds.ImageType = kind
    ds.DerivationDescription = _derivation(image, number, provenance)
    ds.DerivationCodeSequence = [_code("113040", "DCM", "Lossy Compression")]
    ds.LossyImageCompression = "01"
    ds.LossyImageCompressionRatio = f"{_ratio(level.size, lengths):.2f}"
    ds.LossyImageCompressionMethod = "ISO_10918_1"
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "YBR_FULL_422"
    ds.PlanarConfiguration = 0
    ds.NumberOfFrames = len(lengths)
    ds.Rows = ds.Columns = TILE
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = level.size
    ds.TotalPixelMatrixFocalPlanes = 1
    ds.ImagedVolumeWidth = finest.size[0] * finest.mpp / 1000
    ds.ImagedVolumeHeight = finest.size[1] * finest.mpp / 1000
    ds.ImagedVolumeDepth = 1.0
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0.0
    ds.TotalPixelMatrixOriginSequence = [origin]
    ds.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]

    measures, frame, path = Dataset(), Dataset(), Dataset()
    # The level's pixels cover the same area as the finest level's, to a fraction of a pixel.
    measures.PixelSpacing = [level.mpp / 1000, level.mpp / 1000]
    measures.SliceThickness = 1.0
    frame.FrameType = kind
    path.OpticalPathIdentifier = "1"
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.WholeSlideMicroscopyImageFrameTypeSequence = [frame]
    shared.OpticalPathIdentificationSequence = [path]
    ds.SharedFunctionalGroupsSequence = [shared]

    padded = lengths + lengths % 2
    starts = np.concatenate([[0], np.cumsum(padded + 8)[:-1]])
    ds.ExtendedOffsetTable = starts.astype("<u8").tobytes()
    ds.ExtendedOffsetTableLengths = padded.astype("<u8").tobytes()
    dcmwrite(file, ds, enforce_file_format=True)


def _file_meta(instance: UID) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = "ZOOMLDM"
    return meta


def _common(ds: Dataset, uid: Any, name: str) -> None:
    """Set the attributes that all instances of a series share."""
    from zoomldm import __version__

    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid("study"), uid("series")
    ds.FrameOfReferenceUID, ds.PyramidUID = uid("frame of reference"), uid("pyramid")
    ds.PositionReferenceIndicator = "SLIDE_CORNER"
    ds.PatientName = ds.PatientID = ds.PatientBirthDate = ds.PatientSex = ""
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "Names of slide and archive left out; no patient data were read"
    ds.StudyDate = ds.StudyTime = ds.StudyID = ds.AccessionNumber = ""
    ds.ReferringPhysicianName = ""
    ds.Modality = "SM"
    ds.SeriesNumber = 1
    ds.SeriesDescription = "Regenerated by ZoomLDM; not for diagnosis"
    ds.Manufacturer, ds.ManufacturerModelName = "zoomldm", "zoomldm"
    ds.DeviceSerialNumber = "none"
    ds.SoftwareVersions = __version__
    ds.ContentDate, ds.ContentTime = _DATE, _TIME
    ds.AcquisitionDateTime = _DATE + _TIME
    ds.AcquisitionContextSequence = []
    ds.BurnedInAnnotation = "NO"
    ds.VolumetricProperties = "VOLUME"
    ds.SpecimenLabelInImage = "NO"
    ds.FocusMethod = "AUTO"
    ds.ExtendedDepthOfField = "NO"
    ds.NumberOfOpticalPaths = 1

    ds.ContainerIdentifier = name
    ds.IssuerOfTheContainerIdentifierSequence = []
    ds.ContainerTypeCodeSequence = [_code("433466003", "SCT", "Microscope slide")]
    specimen = Dataset()
    specimen.SpecimenIdentifier = name
    specimen.SpecimenUID = uid("specimen")
    specimen.IssuerOfTheSpecimenIdentifierSequence = []
    specimen.SpecimenPreparationSequence = []
    ds.SpecimenDescriptionSequence = [specimen]

    path = Dataset()
    path.OpticalPathIdentifier = "1"
    path.IlluminationTypeCodeSequence = [_code("111744", "DCM", "Brightfield illumination")]
    path.IlluminationColorCodeSequence = [_code("414298005", "SCT", "Full Spectrum")]
    path.ObjectiveLensPower = "20"
    path.ICCProfile = srgb_profile()
    path.ColorSpace = "SRGB"
    ds.OpticalPathSequence = [path]

    organisation, index = Dataset(), Dataset()
    organisation.DimensionOrganizationUID = uid("dimensions")
    ds.DimensionOrganizationSequence = [organisation]
    ds.DimensionOrganizationType = "TILED_FULL"
    index.DimensionOrganizationUID = uid("dimensions")
    index.DimensionIndexPointer = 0x0048021F  # Row Position In Total Image Pixel Matrix
    index.FunctionalGroupPointer = 0x0048021A  # Plane Position (Slide) Sequence
    other = Dataset()
    other.DimensionOrganizationUID = uid("dimensions")
    other.DimensionIndexPointer = 0x0048021E  # Column Position In Total Image Pixel Matrix
    other.FunctionalGroupPointer = 0x0048021A
    ds.DimensionIndexSequence = [other, index]


def _derivation(image: Image, number: int, provenance: dict[str, Any]) -> str:
    generated = [part.name for part in image.levels if part.origin == "generated"]
    real = [part.name for part in image.levels if part.origin == "real"]
    what = (
        "Synthetic: pixels generated from tile embeddings"
        if image.levels[number].origin == "generated"
        else "Not synthetic: pixels stored in the archive"
    )
    text = (
        f"{what} by zoomldm; not for diagnosis. "
        f"Generated levels: {', '.join(generated) or 'none'}; "
        f"real levels: {', '.join(real) or 'none'}. "
    )
    keys = ("archive_digest", "pipeline_digest", "seed", "method", "steps", "guidance", "region")
    return (text + "; ".join(f"{n}={provenance[n]}" for n in keys if n in provenance))[:_TEXT]


def _ratio(size: tuple[int, int], lengths: NDArray[np.int64]) -> float:
    return 3 * size[0] * size[1] / max(1, int(lengths.sum()))


def _stable(provenance: dict[str, Any]) -> dict[str, Any]:
    """The provenance that affects the pixels, without the machine's threads."""
    return {name: value for name, value in provenance.items() if name not in ("threads", "torch")}


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def srgb_profile() -> bytes:
    """An ICC profile of sRGB with a fixed creation date, so that its bytes are reproducible."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[24:36] = bytes([7, 178, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0])  # 1970-01-01
    return bytes(data)

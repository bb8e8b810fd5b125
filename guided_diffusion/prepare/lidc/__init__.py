"""LIDC-IDRI: the download of DICOM and XML, and published preprocessed versions."""

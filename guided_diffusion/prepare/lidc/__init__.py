"""LIDC-IDRI: its download of DICOM and XML, and its published preparations."""

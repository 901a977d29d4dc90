package dicom

import "fmt"

// A Tag identifies an element: the group in the high 16 bits, the element number in the low ones.
type Tag uint32

// String returns the tag as the standard writes it, with its name where this package knows it: (0028,0010) Rows.
func (t Tag) String() string {
	s := fmt.Sprintf("(%04X,%04X)", uint32(t)>>16, uint32(t)&0xffff)
	if e, ok := dictionary[t]; ok {
		s += " " + e.name
	}
	return s
}

type entry struct{ vr, name string }

// Delimiters, which have neither VR nor value.
const (
	tagItem        Tag = 0xFFFEE000
	tagItemEnd     Tag = 0xFFFEE00D
	tagSequenceEnd Tag = 0xFFFEE0DD
)

// The tags that this package and its writers use, by their keywords in PS3.6.
const (
	FileMetaInformationGroupLength                  Tag = 0x00020000
	FileMetaInformationVersion                      Tag = 0x00020001
	MediaStorageSOPClassUID                         Tag = 0x00020002
	MediaStorageSOPInstanceUID                      Tag = 0x00020003
	TransferSyntaxUID                               Tag = 0x00020010
	ImplementationClassUID                          Tag = 0x00020012
	ImplementationVersionName                       Tag = 0x00020013
	SpecificCharacterSet                            Tag = 0x00080005
	ImageType                                       Tag = 0x00080008
	InstanceCreationDate                            Tag = 0x00080012
	InstanceCreationTime                            Tag = 0x00080013
	SOPClassUID                                     Tag = 0x00080016
	SOPInstanceUID                                  Tag = 0x00080018
	StudyDate                                       Tag = 0x00080020
	SeriesDate                                      Tag = 0x00080021
	AcquisitionDate                                 Tag = 0x00080022
	ContentDate                                     Tag = 0x00080023
	AcquisitionDateTime                             Tag = 0x0008002A
	StudyTime                                       Tag = 0x00080030
	SeriesTime                                      Tag = 0x00080031
	AcquisitionTime                                 Tag = 0x00080032
	ContentTime                                     Tag = 0x00080033
	AccessionNumber                                 Tag = 0x00080050
	Modality                                        Tag = 0x00080060
	ModalitiesInStudy                               Tag = 0x00080061
	PresentationIntentType                          Tag = 0x00080068
	Manufacturer                                    Tag = 0x00080070
	ReferringPhysicianName                          Tag = 0x00080090
	CodeValue                                       Tag = 0x00080100
	CodingSchemeDesignator                          Tag = 0x00080102
	CodingSchemeVersion                             Tag = 0x00080103
	CodeMeaning                                     Tag = 0x00080104
	MappingResource                                 Tag = 0x00080105
	CodingSchemeUID                                 Tag = 0x0008010C
	CodingSchemeIdentificationSequence              Tag = 0x00080110
	CodingSchemeName                                Tag = 0x00080115
	CodingSchemeResponsibleOrganization             Tag = 0x00080116
	TimezoneOffsetFromUTC                           Tag = 0x00080201
	StudyDescription                                Tag = 0x00081030
	SeriesDescription                               Tag = 0x0008103E
	ManufacturerModelName                           Tag = 0x00081090
	ReferencedStudySequence                         Tag = 0x00081110
	ReferencedPerformedProcedureStepSequence        Tag = 0x00081111
	ReferencedSeriesSequence                        Tag = 0x00081115
	ReferencedPatientSequence                       Tag = 0x00081120
	ReferencedImageSequence                         Tag = 0x00081140
	ReferencedInstanceSequence                      Tag = 0x0008114A
	ReferencedRealWorldValueMappingInstanceSequence Tag = 0x0008114B
	ReferencedSOPClassUID                           Tag = 0x00081150
	ReferencedSOPInstanceUID                        Tag = 0x00081155
	ReferencedFrameNumber                           Tag = 0x00081160
	ReferencedSOPSequence                           Tag = 0x00081199
	DerivationDescription                           Tag = 0x00082111
	SourceImageSequence                             Tag = 0x00082112
	AnatomicRegionSequence                          Tag = 0x00082218
	FrameType                                       Tag = 0x00089007
	ReferencedRawDataSequence                       Tag = 0x00089121
	DerivationImageSequence                         Tag = 0x00089124
	SourceImageEvidenceSequence                     Tag = 0x00089154
	DerivationCodeSequence                          Tag = 0x00089215
	PatientName                                     Tag = 0x00100010
	PatientID                                       Tag = 0x00100020
	PatientBirthDate                                Tag = 0x00100030
	PatientSex                                      Tag = 0x00100040
	PatientAge                                      Tag = 0x00101010
	PatientSize                                     Tag = 0x00101020
	PatientWeight                                   Tag = 0x00101030
	BodyPartExamined                                Tag = 0x00180015
	SliceThickness                                  Tag = 0x00180050
	EchoTime                                        Tag = 0x00180081
	EchoNumbers                                     Tag = 0x00180086
	SpacingBetweenSlices                            Tag = 0x00180088
	DeviceSerialNumber                              Tag = 0x00181000
	SoftwareVersions                                Tag = 0x00181020
	TriggerTime                                     Tag = 0x00181060
	RadiopharmaceuticalStartTime                    Tag = 0x00181072
	RadionuclideTotalDose                           Tag = 0x00181074
	RadionuclideHalfLife                            Tag = 0x00181075
	RadiopharmaceuticalStartDateTime                Tag = 0x00181078
	ImagerPixelSpacing                              Tag = 0x00181164
	AcquisitionDeviceProcessingDescription          Tag = 0x00181400
	NominalScannedPixelSpacing                      Tag = 0x00182010
	SequenceOfUltrasoundRegions                     Tag = 0x00186011
	PhysicalUnitsXDirection                         Tag = 0x00186024
	PhysicalUnitsYDirection                         Tag = 0x00186026
	PhysicalDeltaX                                  Tag = 0x0018602C
	PhysicalDeltaY                                  Tag = 0x0018602E
	AcquisitionDuration                             Tag = 0x00189073
	FrameAcquisitionDateTime                        Tag = 0x00189074
	DiffusionBValue                                 Tag = 0x00189087
	FrameReferenceDateTime                          Tag = 0x00189151
	FrameAcquisitionDuration                        Tag = 0x00189220
	StudyInstanceUID                                Tag = 0x0020000D
	SeriesInstanceUID                               Tag = 0x0020000E
	StudyID                                         Tag = 0x00200010
	SeriesNumber                                    Tag = 0x00200011
	AcquisitionNumber                               Tag = 0x00200012
	InstanceNumber                                  Tag = 0x00200013
	PatientOrientation                              Tag = 0x00200020
	ImagePositionPatient                            Tag = 0x00200032
	ImageOrientationPatient                         Tag = 0x00200037
	FrameOfReferenceUID                             Tag = 0x00200052
	Laterality                                      Tag = 0x00200060
	TemporalPositionIdentifier                      Tag = 0x00200100
	NumberOfTemporalPositions                       Tag = 0x00200105
	PositionReferenceIndicator                      Tag = 0x00201040
	StackID                                         Tag = 0x00209056
	InStackPositionNumber                           Tag = 0x00209057
	FrameContentSequence                            Tag = 0x00209111
	PlanePositionSequence                           Tag = 0x00209113
	PlaneOrientationSequence                        Tag = 0x00209116
	TemporalPositionIndex                           Tag = 0x00209128
	DimensionIndexValues                            Tag = 0x00209157
	DimensionOrganizationUID                        Tag = 0x00209164
	DimensionIndexPointer                           Tag = 0x00209165
	FunctionalGroupPointer                          Tag = 0x00209167
	DimensionOrganizationSequence                   Tag = 0x00209221
	DimensionIndexSequence                          Tag = 0x00209222
	ConcatenationFrameOffsetNumber                  Tag = 0x00209228
	DimensionOrganizationType                       Tag = 0x00209311
	DimensionDescriptionLabel                       Tag = 0x00209421
	AlgorithmSource                                 Tag = 0x00240202
	SamplesPerPixel                                 Tag = 0x00280002
	PhotometricInterpretation                       Tag = 0x00280004
	PlanarConfiguration                             Tag = 0x00280006
	NumberOfFrames                                  Tag = 0x00280008
	FrameIncrementPointer                           Tag = 0x00280009
	Rows                                            Tag = 0x00280010
	Columns                                         Tag = 0x00280011
	PixelSpacing                                    Tag = 0x00280030
	PixelAspectRatio                                Tag = 0x00280034
	CorrectedImage                                  Tag = 0x00280051
	BitsAllocated                                   Tag = 0x00280100
	BitsStored                                      Tag = 0x00280101
	HighBit                                         Tag = 0x00280102
	PixelRepresentation                             Tag = 0x00280103
	PixelPaddingValue                               Tag = 0x00280120
	BurnedInAnnotation                              Tag = 0x00280301
	WindowCenter                                    Tag = 0x00281050
	WindowWidth                                     Tag = 0x00281051
	RescaleIntercept                                Tag = 0x00281052
	RescaleSlope                                    Tag = 0x00281053
	RescaleType                                     Tag = 0x00281054
	WindowCenterWidthExplanation                    Tag = 0x00281055
	VOILUTFunction                                  Tag = 0x00281056
	RedPaletteColorLookupTableDescriptor            Tag = 0x00281101
	GreenPaletteColorLookupTableDescriptor          Tag = 0x00281102
	BluePaletteColorLookupTableDescriptor           Tag = 0x00281103
	RedPaletteColorLookupTableData                  Tag = 0x00281201
	GreenPaletteColorLookupTableData                Tag = 0x00281202
	BluePaletteColorLookupTableData                 Tag = 0x00281203
	SegmentedRedPaletteColorLookupTableData         Tag = 0x00281221
	SegmentedGreenPaletteColorLookupTableData       Tag = 0x00281222
	SegmentedBluePaletteColorLookupTableData        Tag = 0x00281223
	LossyImageCompression                           Tag = 0x00282110
	LossyImageCompressionRatio                      Tag = 0x00282112
	LossyImageCompressionMethod                     Tag = 0x00282114
	ModalityLUTSequence                             Tag = 0x00283000
	LUTDescriptor                                   Tag = 0x00283002
	LUTExplanation                                  Tag = 0x00283003
	LUTData                                         Tag = 0x00283006
	VOILUTSequence                                  Tag = 0x00283010
	PixelMeasuresSequence                           Tag = 0x00289110
	FrameVOILUTSequence                             Tag = 0x00289132
	PixelValueTransformationSequence                Tag = 0x00289145
	FlowIdentifierSequence                          Tag = 0x00340001
	ProcedureStepCancellationDateTime               Tag = 0x00404052
	RealWorldValueMappingSequence                   Tag = 0x00409096
	RelationshipType                                Tag = 0x0040A010
	ObservationDateTime                             Tag = 0x0040A032
	ValueType                                       Tag = 0x0040A040
	ConceptNameCodeSequence                         Tag = 0x0040A043
	ContinuityOfContent                             Tag = 0x0040A050
	PersonName                                      Tag = 0x0040A123
	UID                                             Tag = 0x0040A124
	ReferencedDateTime                              Tag = 0x0040A13A
	TextValue                                       Tag = 0x0040A160
	ConceptCodeSequence                             Tag = 0x0040A168
	PurposeOfReferenceCodeSequence                  Tag = 0x0040A170
	PerformedProcedureCodeSequence                  Tag = 0x0040A372
	CurrentRequestedProcedureEvidenceSequence       Tag = 0x0040A375
	CompletionFlag                                  Tag = 0x0040A491
	VerificationFlag                                Tag = 0x0040A493
	ContentTemplateSequence                         Tag = 0x0040A504
	ContentSequence                                 Tag = 0x0040A730
	TemplateIdentifier                              Tag = 0x0040DB00
	TotalPixelMatrixColumns                         Tag = 0x00480006
	TotalPixelMatrixRows                            Tag = 0x00480007
	TotalPixelMatrixOriginSequence                  Tag = 0x00480008
	PlanePositionSlideSequence                      Tag = 0x0048021A
	ColumnPositionInTotalImagePixelMatrix           Tag = 0x0048021E
	RowPositionInTotalImagePixelMatrix              Tag = 0x0048021F
	RadiopharmaceuticalInformationSequence          Tag = 0x00540016
	Units                                           Tag = 0x00541001
	DecayCorrection                                 Tag = 0x00541102
	FrameReferenceTime                              Tag = 0x00541300
	DecayFactor                                     Tag = 0x00541321
	ImageIndex                                      Tag = 0x00541330
	SegmentationType                                Tag = 0x00620001
	SegmentSequence                                 Tag = 0x00620002
	SegmentedPropertyCategoryCodeSequence           Tag = 0x00620003
	SegmentNumber                                   Tag = 0x00620004
	SegmentLabel                                    Tag = 0x00620005
	SegmentDescription                              Tag = 0x00620006
	SegmentationAlgorithmIdentificationSequence     Tag = 0x00620007
	SegmentAlgorithmType                            Tag = 0x00620008
	SegmentAlgorithmName                            Tag = 0x00620009
	SegmentIdentificationSequence                   Tag = 0x0062000A
	ReferencedSegmentNumber                         Tag = 0x0062000B
	RecommendedDisplayCIELabValue                   Tag = 0x0062000D
	SegmentedPropertyTypeCodeSequence               Tag = 0x0062000F
	SegmentedPropertyTypeModifierCodeSequence       Tag = 0x00620011
	AlgorithmFamilyCodeSequence                     Tag = 0x0066002F
	AlgorithmVersion                                Tag = 0x00660031
	AlgorithmName                                   Tag = 0x00660036
	ContentLabel                                    Tag = 0x00700080
	ContentDescription                              Tag = 0x00700081
	PresentationCreationDate                        Tag = 0x00700082
	ContentCreatorName                              Tag = 0x00700084
	StorageMediaFileSetUID                          Tag = 0x00880140
	DoseUnits                                       Tag = 0x30040002
	GridFrameOffsetVector                           Tag = 0x3004000C
	DoseGridScaling                                 Tag = 0x3004000E
	SharedFunctionalGroupsSequence                  Tag = 0x52009229
	PerFrameFunctionalGroupsSequence                Tag = 0x52009230
	PhilipsSUVScaleFactor                           Tag = 0x70531000
	ExtendedOffsetTable                             Tag = 0x7FE00001
	ExtendedOffsetTableLengths                      Tag = 0x7FE00002
	FloatPixelData                                  Tag = 0x7FE00008
	DoubleFloatPixelData                            Tag = 0x7FE00009
	PixelData                                       Tag = 0x7FE00010
)

// dictionary has the value representations of PS3.6, which files of implicit VR leave out. Where the standard leaves the
// choice (US or SS) the unsigned one stands here, and readers look at Pixel Representation.
var dictionary = map[Tag]entry{
	FileMetaInformationGroupLength:           {"UL", "FileMetaInformationGroupLength"},
	FileMetaInformationVersion:               {"OB", "FileMetaInformationVersion"},
	MediaStorageSOPClassUID:                  {"UI", "MediaStorageSOPClassUID"},
	MediaStorageSOPInstanceUID:               {"UI", "MediaStorageSOPInstanceUID"},
	TransferSyntaxUID:                        {"UI", "TransferSyntaxUID"},
	ImplementationClassUID:                   {"UI", "ImplementationClassUID"},
	ImplementationVersionName:                {"SH", "ImplementationVersionName"},
	SpecificCharacterSet:                     {"CS", "SpecificCharacterSet"},
	ImageType:                                {"CS", "ImageType"},
	InstanceCreationDate:                     {"DA", "InstanceCreationDate"},
	InstanceCreationTime:                     {"TM", "InstanceCreationTime"},
	SOPClassUID:                              {"UI", "SOPClassUID"},
	SOPInstanceUID:                           {"UI", "SOPInstanceUID"},
	StudyDate:                                {"DA", "StudyDate"},
	SeriesDate:                               {"DA", "SeriesDate"},
	AcquisitionDate:                          {"DA", "AcquisitionDate"},
	ContentDate:                              {"DA", "ContentDate"},
	AcquisitionDateTime:                      {"DT", "AcquisitionDateTime"},
	StudyTime:                                {"TM", "StudyTime"},
	SeriesTime:                               {"TM", "SeriesTime"},
	AcquisitionTime:                          {"TM", "AcquisitionTime"},
	ContentTime:                              {"TM", "ContentTime"},
	AccessionNumber:                          {"SH", "AccessionNumber"},
	Modality:                                 {"CS", "Modality"},
	ModalitiesInStudy:                        {"CS", "ModalitiesInStudy"},
	PresentationIntentType:                   {"CS", "PresentationIntentType"},
	Manufacturer:                             {"LO", "Manufacturer"},
	ReferringPhysicianName:                   {"PN", "ReferringPhysicianName"},
	CodeValue:                                {"SH", "CodeValue"},
	CodingSchemeDesignator:                   {"SH", "CodingSchemeDesignator"},
	CodingSchemeVersion:                      {"SH", "CodingSchemeVersion"},
	CodeMeaning:                              {"LO", "CodeMeaning"},
	MappingResource:                          {"CS", "MappingResource"},
	CodingSchemeUID:                          {"UI", "CodingSchemeUID"},
	CodingSchemeIdentificationSequence:       {"SQ", "CodingSchemeIdentificationSequence"},
	CodingSchemeName:                         {"ST", "CodingSchemeName"},
	CodingSchemeResponsibleOrganization:      {"ST", "CodingSchemeResponsibleOrganization"},
	TimezoneOffsetFromUTC:                    {"SH", "TimezoneOffsetFromUTC"},
	StudyDescription:                         {"LO", "StudyDescription"},
	SeriesDescription:                        {"LO", "SeriesDescription"},
	ManufacturerModelName:                    {"LO", "ManufacturerModelName"},
	ReferencedStudySequence:                  {"SQ", "ReferencedStudySequence"},
	ReferencedPerformedProcedureStepSequence: {"SQ", "ReferencedPerformedProcedureStepSequence"},
	ReferencedSeriesSequence:                 {"SQ", "ReferencedSeriesSequence"},
	ReferencedPatientSequence:                {"SQ", "ReferencedPatientSequence"},
	ReferencedImageSequence:                  {"SQ", "ReferencedImageSequence"},
	ReferencedInstanceSequence:               {"SQ", "ReferencedInstanceSequence"},
	ReferencedRealWorldValueMappingInstanceSequence: {"SQ", "ReferencedRealWorldValueMappingInstanceSequence"},
	ReferencedSOPClassUID:                           {"UI", "ReferencedSOPClassUID"},
	ReferencedSOPInstanceUID:                        {"UI", "ReferencedSOPInstanceUID"},
	ReferencedFrameNumber:                           {"IS", "ReferencedFrameNumber"},
	ReferencedSOPSequence:                           {"SQ", "ReferencedSOPSequence"},
	DerivationDescription:                           {"ST", "DerivationDescription"},
	SourceImageSequence:                             {"SQ", "SourceImageSequence"},
	AnatomicRegionSequence:                          {"SQ", "AnatomicRegionSequence"},
	FrameType:                                       {"CS", "FrameType"},
	ReferencedRawDataSequence:                       {"SQ", "ReferencedRawDataSequence"},
	DerivationImageSequence:                         {"SQ", "DerivationImageSequence"},
	SourceImageEvidenceSequence:                     {"SQ", "SourceImageEvidenceSequence"},
	DerivationCodeSequence:                          {"SQ", "DerivationCodeSequence"},
	PatientName:                                     {"PN", "PatientName"},
	PatientID:                                       {"LO", "PatientID"},
	PatientBirthDate:                                {"DA", "PatientBirthDate"},
	PatientSex:                                      {"CS", "PatientSex"},
	PatientAge:                                      {"AS", "PatientAge"},
	PatientSize:                                     {"DS", "PatientSize"},
	PatientWeight:                                   {"DS", "PatientWeight"},
	BodyPartExamined:                                {"CS", "BodyPartExamined"},
	SliceThickness:                                  {"DS", "SliceThickness"},
	EchoTime:                                        {"DS", "EchoTime"},
	EchoNumbers:                                     {"IS", "EchoNumbers"},
	SpacingBetweenSlices:                            {"DS", "SpacingBetweenSlices"},
	DeviceSerialNumber:                              {"LO", "DeviceSerialNumber"},
	SoftwareVersions:                                {"LO", "SoftwareVersions"},
	TriggerTime:                                     {"DS", "TriggerTime"},
	RadiopharmaceuticalStartTime:                    {"TM", "RadiopharmaceuticalStartTime"},
	RadionuclideTotalDose:                           {"DS", "RadionuclideTotalDose"},
	RadionuclideHalfLife:                            {"DS", "RadionuclideHalfLife"},
	RadiopharmaceuticalStartDateTime:                {"DT", "RadiopharmaceuticalStartDateTime"},
	ImagerPixelSpacing:                              {"DS", "ImagerPixelSpacing"},
	AcquisitionDeviceProcessingDescription:          {"LO", "AcquisitionDeviceProcessingDescription"},
	NominalScannedPixelSpacing:                      {"DS", "NominalScannedPixelSpacing"},
	SequenceOfUltrasoundRegions:                     {"SQ", "SequenceOfUltrasoundRegions"},
	PhysicalUnitsXDirection:                         {"US", "PhysicalUnitsXDirection"},
	PhysicalUnitsYDirection:                         {"US", "PhysicalUnitsYDirection"},
	PhysicalDeltaX:                                  {"FD", "PhysicalDeltaX"},
	PhysicalDeltaY:                                  {"FD", "PhysicalDeltaY"},
	AcquisitionDuration:                             {"FD", "AcquisitionDuration"},
	FrameAcquisitionDateTime:                        {"DT", "FrameAcquisitionDateTime"},
	DiffusionBValue:                                 {"FD", "DiffusionBValue"},
	FrameReferenceDateTime:                          {"DT", "FrameReferenceDateTime"},
	FrameAcquisitionDuration:                        {"FD", "FrameAcquisitionDuration"},
	StudyInstanceUID:                                {"UI", "StudyInstanceUID"},
	SeriesInstanceUID:                               {"UI", "SeriesInstanceUID"},
	StudyID:                                         {"SH", "StudyID"},
	SeriesNumber:                                    {"IS", "SeriesNumber"},
	AcquisitionNumber:                               {"IS", "AcquisitionNumber"},
	InstanceNumber:                                  {"IS", "InstanceNumber"},
	PatientOrientation:                              {"CS", "PatientOrientation"},
	ImagePositionPatient:                            {"DS", "ImagePositionPatient"},
	ImageOrientationPatient:                         {"DS", "ImageOrientationPatient"},
	FrameOfReferenceUID:                             {"UI", "FrameOfReferenceUID"},
	Laterality:                                      {"CS", "Laterality"},
	TemporalPositionIdentifier:                      {"IS", "TemporalPositionIdentifier"},
	NumberOfTemporalPositions:                       {"IS", "NumberOfTemporalPositions"},
	PositionReferenceIndicator:                      {"LO", "PositionReferenceIndicator"},
	StackID:                                         {"SH", "StackID"},
	InStackPositionNumber:                           {"UL", "InStackPositionNumber"},
	FrameContentSequence:                            {"SQ", "FrameContentSequence"},
	PlanePositionSequence:                           {"SQ", "PlanePositionSequence"},
	PlaneOrientationSequence:                        {"SQ", "PlaneOrientationSequence"},
	TemporalPositionIndex:                           {"UL", "TemporalPositionIndex"},
	DimensionIndexValues:                            {"UL", "DimensionIndexValues"},
	DimensionOrganizationUID:                        {"UI", "DimensionOrganizationUID"},
	DimensionIndexPointer:                           {"AT", "DimensionIndexPointer"},
	FunctionalGroupPointer:                          {"AT", "FunctionalGroupPointer"},
	DimensionOrganizationSequence:                   {"SQ", "DimensionOrganizationSequence"},
	DimensionIndexSequence:                          {"SQ", "DimensionIndexSequence"},
	ConcatenationFrameOffsetNumber:                  {"UL", "ConcatenationFrameOffsetNumber"},
	DimensionOrganizationType:                       {"CS", "DimensionOrganizationType"},
	DimensionDescriptionLabel:                       {"LO", "DimensionDescriptionLabel"},
	AlgorithmSource:                                 {"LO", "AlgorithmSource"},
	SamplesPerPixel:                                 {"US", "SamplesPerPixel"},
	PhotometricInterpretation:                       {"CS", "PhotometricInterpretation"},
	PlanarConfiguration:                             {"US", "PlanarConfiguration"},
	NumberOfFrames:                                  {"IS", "NumberOfFrames"},
	FrameIncrementPointer:                           {"AT", "FrameIncrementPointer"},
	Rows:                                            {"US", "Rows"},
	Columns:                                         {"US", "Columns"},
	PixelSpacing:                                    {"DS", "PixelSpacing"},
	PixelAspectRatio:                                {"IS", "PixelAspectRatio"},
	CorrectedImage:                                  {"CS", "CorrectedImage"},
	BitsAllocated:                                   {"US", "BitsAllocated"},
	BitsStored:                                      {"US", "BitsStored"},
	HighBit:                                         {"US", "HighBit"},
	PixelRepresentation:                             {"US", "PixelRepresentation"},
	PixelPaddingValue:                               {"US", "PixelPaddingValue"},
	BurnedInAnnotation:                              {"CS", "BurnedInAnnotation"},
	WindowCenter:                                    {"DS", "WindowCenter"},
	WindowWidth:                                     {"DS", "WindowWidth"},
	RescaleIntercept:                                {"DS", "RescaleIntercept"},
	RescaleSlope:                                    {"DS", "RescaleSlope"},
	RescaleType:                                     {"LO", "RescaleType"},
	WindowCenterWidthExplanation:                    {"LO", "WindowCenterWidthExplanation"},
	VOILUTFunction:                                  {"CS", "VOILUTFunction"},
	RedPaletteColorLookupTableDescriptor:            {"US", "RedPaletteColorLookupTableDescriptor"},
	GreenPaletteColorLookupTableDescriptor:          {"US", "GreenPaletteColorLookupTableDescriptor"},
	BluePaletteColorLookupTableDescriptor:           {"US", "BluePaletteColorLookupTableDescriptor"},
	RedPaletteColorLookupTableData:                  {"OW", "RedPaletteColorLookupTableData"},
	GreenPaletteColorLookupTableData:                {"OW", "GreenPaletteColorLookupTableData"},
	BluePaletteColorLookupTableData:                 {"OW", "BluePaletteColorLookupTableData"},
	SegmentedRedPaletteColorLookupTableData:         {"OW", "SegmentedRedPaletteColorLookupTableData"},
	SegmentedGreenPaletteColorLookupTableData:       {"OW", "SegmentedGreenPaletteColorLookupTableData"},
	SegmentedBluePaletteColorLookupTableData:        {"OW", "SegmentedBluePaletteColorLookupTableData"},
	LossyImageCompression:                           {"CS", "LossyImageCompression"},
	LossyImageCompressionRatio:                      {"DS", "LossyImageCompressionRatio"},
	LossyImageCompressionMethod:                     {"CS", "LossyImageCompressionMethod"},
	ModalityLUTSequence:                             {"SQ", "ModalityLUTSequence"},
	LUTDescriptor:                                   {"US", "LUTDescriptor"},
	LUTExplanation:                                  {"LO", "LUTExplanation"},
	LUTData:                                         {"OW", "LUTData"},
	VOILUTSequence:                                  {"SQ", "VOILUTSequence"},
	PixelMeasuresSequence:                           {"SQ", "PixelMeasuresSequence"},
	FrameVOILUTSequence:                             {"SQ", "FrameVOILUTSequence"},
	PixelValueTransformationSequence:                {"SQ", "PixelValueTransformationSequence"},
	FlowIdentifierSequence:                          {"SQ", "FlowIdentifierSequence"},
	ProcedureStepCancellationDateTime:               {"DT", "ProcedureStepCancellationDateTime"},
	RealWorldValueMappingSequence:                   {"SQ", "RealWorldValueMappingSequence"},
	RelationshipType:                                {"CS", "RelationshipType"},
	ObservationDateTime:                             {"DT", "ObservationDateTime"},
	ValueType:                                       {"CS", "ValueType"},
	ConceptNameCodeSequence:                         {"SQ", "ConceptNameCodeSequence"},
	ContinuityOfContent:                             {"CS", "ContinuityOfContent"},
	PersonName:                                      {"PN", "PersonName"},
	UID:                                             {"UI", "UID"},
	ReferencedDateTime:                              {"DT", "ReferencedDateTime"},
	TextValue:                                       {"UT", "TextValue"},
	ConceptCodeSequence:                             {"SQ", "ConceptCodeSequence"},
	PurposeOfReferenceCodeSequence:                  {"SQ", "PurposeOfReferenceCodeSequence"},
	PerformedProcedureCodeSequence:                  {"SQ", "PerformedProcedureCodeSequence"},
	CurrentRequestedProcedureEvidenceSequence:       {"SQ", "CurrentRequestedProcedureEvidenceSequence"},
	CompletionFlag:                                  {"CS", "CompletionFlag"},
	VerificationFlag:                                {"CS", "VerificationFlag"},
	ContentTemplateSequence:                         {"SQ", "ContentTemplateSequence"},
	ContentSequence:                                 {"SQ", "ContentSequence"},
	TemplateIdentifier:                              {"CS", "TemplateIdentifier"},
	TotalPixelMatrixColumns:                         {"UL", "TotalPixelMatrixColumns"},
	TotalPixelMatrixRows:                            {"UL", "TotalPixelMatrixRows"},
	TotalPixelMatrixOriginSequence:                  {"SQ", "TotalPixelMatrixOriginSequence"},
	PlanePositionSlideSequence:                      {"SQ", "PlanePositionSlideSequence"},
	ColumnPositionInTotalImagePixelMatrix:           {"SL", "ColumnPositionInTotalImagePixelMatrix"},
	RowPositionInTotalImagePixelMatrix:              {"SL", "RowPositionInTotalImagePixelMatrix"},
	RadiopharmaceuticalInformationSequence:          {"SQ", "RadiopharmaceuticalInformationSequence"},
	Units:                                           {"CS", "Units"},
	DecayCorrection:                                 {"CS", "DecayCorrection"},
	FrameReferenceTime:                              {"DS", "FrameReferenceTime"},
	DecayFactor:                                     {"DS", "DecayFactor"},
	ImageIndex:                                      {"US", "ImageIndex"},
	SegmentationType:                                {"CS", "SegmentationType"},
	SegmentSequence:                                 {"SQ", "SegmentSequence"},
	SegmentedPropertyCategoryCodeSequence:           {"SQ", "SegmentedPropertyCategoryCodeSequence"},
	SegmentNumber:                                   {"US", "SegmentNumber"},
	SegmentLabel:                                    {"LO", "SegmentLabel"},
	SegmentDescription:                              {"ST", "SegmentDescription"},
	SegmentationAlgorithmIdentificationSequence:     {"SQ", "SegmentationAlgorithmIdentificationSequence"},
	SegmentAlgorithmType:                            {"CS", "SegmentAlgorithmType"},
	SegmentAlgorithmName:                            {"LO", "SegmentAlgorithmName"},
	SegmentIdentificationSequence:                   {"SQ", "SegmentIdentificationSequence"},
	ReferencedSegmentNumber:                         {"US", "ReferencedSegmentNumber"},
	RecommendedDisplayCIELabValue:                   {"US", "RecommendedDisplayCIELabValue"},
	SegmentedPropertyTypeCodeSequence:               {"SQ", "SegmentedPropertyTypeCodeSequence"},
	SegmentedPropertyTypeModifierCodeSequence:       {"SQ", "SegmentedPropertyTypeModifierCodeSequence"},
	AlgorithmFamilyCodeSequence:                     {"SQ", "AlgorithmFamilyCodeSequence"},
	AlgorithmVersion:                                {"LO", "AlgorithmVersion"},
	AlgorithmName:                                   {"LO", "AlgorithmName"},
	ContentLabel:                                    {"CS", "ContentLabel"},
	ContentDescription:                              {"LO", "ContentDescription"},
	PresentationCreationDate:                        {"DA", "PresentationCreationDate"},
	ContentCreatorName:                              {"PN", "ContentCreatorName"},
	StorageMediaFileSetUID:                          {"UI", "StorageMediaFileSetUID"},
	DoseUnits:                                       {"CS", "DoseUnits"},
	GridFrameOffsetVector:                           {"DS", "GridFrameOffsetVector"},
	DoseGridScaling:                                 {"DS", "DoseGridScaling"},
	SharedFunctionalGroupsSequence:                  {"SQ", "SharedFunctionalGroupsSequence"},
	PerFrameFunctionalGroupsSequence:                {"SQ", "PerFrameFunctionalGroupsSequence"},
	PhilipsSUVScaleFactor:                           {"DS", "PhilipsSUVScaleFactor"},
	ExtendedOffsetTable:                             {"OV", "ExtendedOffsetTable"},
	ExtendedOffsetTableLengths:                      {"OV", "ExtendedOffsetTableLengths"},
	FloatPixelData:                                  {"OF", "FloatPixelData"},
	DoubleFloatPixelData:                            {"OD", "DoubleFloatPixelData"},
	PixelData:                                       {"OW", "PixelData"},
}
